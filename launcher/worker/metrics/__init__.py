"""The computations of metrics, a file each. They are calls of scikit-learn, SciPy, seqeval, rouge-score and sacreBLEU, so whoever
recomputes a figure from predictions.jsonl with them gets the same digits.

A function gets the columns that its metric names, of all rows, and the keywords that it names.
"""
