"""What a rank of a user's program tells of itself without a change in it: a file for each library that is watched."""
