"""What Kubernetes takes for names, labels, amounts and images, so that a slip is said here and not by a server far away.

Sources: names and labels, k8s.io/apimachinery pkg/util/validation/validation.go; which of them a field wants,
k8s.io/kubernetes pkg/apis/core/validation/validation.go; amounts, k8s.io/apimachinery pkg/api/resource/quantity.go;
images, github.com/distribution/reference regexp.go and reference.go.
"""

from __future__ import annotations

import re
from fractions import Fraction

from launcher.errors import LaunchError
from launcher.messages import Message

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAME = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
MAX_LABEL, MAX_SUBDOMAIN, MAX_VALUE, MAX_IMAGE_NAME = 63, 253, 63, 255
BINARY = {f"{letter}i": Fraction(1024) ** n for n, letter in enumerate("KMGTPE", 1)}
DECIMAL = {
    letter: Fraction(10) ** (3 * n)
    for n, letter in zip((-3, -2, -1, 0, 1, 2, 3, 4, 5, 6), ("n", "u", "m", "", *"kMGTPE"), strict=True)
}
LEAST_MEMORY = 6 << 20
"""A container's least (moby daemon/daemon_unix.go, linuxMinMemory); who writes 200 means 200Gi."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_DOMAIN = rf"(?:{_HOST}(?:\.{_HOST})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_IMAGE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,})?"
)


def label(option: str, value: str) -> None:
    """A name that is a DNS-1123 label, as a namespace's (IsDNS1123Label). Raises LaunchError."""
    if len(value) > MAX_LABEL or not re.fullmatch(_LABEL, value):
        raise _wrong(
            option,
            value,
            Message("small letters, digits and -, {max_label} at most", max_label=MAX_LABEL),
            Message("as in team-a"),
        )


def subdomain(option: str, value: str) -> None:
    """A name that is a DNS-1123 subdomain, as most objects' (IsDNS1123Subdomain). Raises LaunchError."""
    if len(value) > MAX_SUBDOMAIN or not re.fullmatch(_SUBDOMAIN, value):
        raise _wrong(
            option,
            value,
            Message("small letters, digits, - and ., {max_subdomain} at most", max_subdomain=MAX_SUBDOMAIN),
            Message("as in my-results"),
        )


def key_of_secret(option: str, value: str) -> None:
    """A key within a Secret or a ConfigMap (IsConfigMapKey). Raises LaunchError."""
    if len(value) > MAX_SUBDOMAIN or not re.fullmatch(r"[-._a-zA-Z0-9]+", value) or value in (".", ".."):
        raise _wrong(
            option,
            value,
            Message("letters, digits, -, _ and ."),
            Message("`kubectl describe secret NAME` lists its keys"),
        )


def label_key(option: str, value: str) -> None:
    """The key of a label: a name, behind a DNS subdomain and a slash or not (IsQualifiedName). Raises LaunchError."""
    prefix, slash, name = value.rpartition("/")
    if slash and (len(prefix) > MAX_SUBDOMAIN or not re.fullmatch(_SUBDOMAIN, prefix)):
        raise _wrong(
            option,
            value,
            Message("PREFIX/NAME, where PREFIX is a domain in small letters"),
            Message("as in example.com/team"),
        )
    if len(name) > MAX_LABEL or not re.fullmatch(_NAME, name):
        raise _wrong(
            option,
            value,
            Message(
                "letters, digits, -, _ and ., {max_label} at most, first and last a letter or digit",
                max_label=MAX_LABEL,
            ),
            Message("as in example.com/team"),
        )


def label_value(option: str, value: str) -> None:
    """The value of a label or a node selector; it may be empty (IsValidLabelValue). Raises LaunchError."""
    if value and (len(value) > MAX_VALUE or not re.fullmatch(_NAME, value)):
        raise _wrong(
            option,
            value,
            Message(
                "letters, digits, -, _ and ., {max_value} at most, first and last a letter or digit",
                max_value=MAX_VALUE,
            ),
            Message("as in module-910b-8"),
        )


def resource(option: str, value: str) -> None:
    """The name of a device plugin's resource: DOMAIN/NAME (IsExtendedResourceName). Raises LaunchError."""
    if "/" not in value or value.partition("/")[0].endswith("kubernetes.io"):
        raise _wrong(
            option,
            value,
            Message("DOMAIN/NAME, as a device plugin gives it"),
            Message("`kubectl describe node` lists it under Allocatable"),
        )
    label_key(option, value)


def amount(option: str, value: str) -> Fraction:
    """An amount as Kubernetes writes them, above zero: 32, 0.5, 500m, 200Gi, 1e3 (ParseQuantity). Raises LaunchError."""
    match = re.fullmatch(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([a-zA-Z]{0,2}|[eE][-+]?[0-9]{1,2})", value)
    number, suffix = match.groups() if match else ("0", "?")
    if suffix in BINARY or suffix in DECIMAL:
        factor = BINARY.get(suffix) or DECIMAL[suffix]
    elif re.fullmatch(r"[eE][-+]?[0-9]+", suffix):
        factor = Fraction(10) ** int(suffix[1:])
    else:
        raise _wrong(
            option,
            value,
            Message("a number and none or one of m, k, M, G, T, Ki, Mi, Gi, Ti"),
            Message("as in 32, 500m or 200Gi"),
        )
    quantity = Fraction(number) * factor
    if not quantity:
        raise LaunchError(
            "{option} {value!r} is nothing",
            hint="give an amount above zero, or leave it out",
            option=option,
            value=value,
        )
    return quantity


def memory(option: str, value: str) -> None:
    """An amount of memory in bytes that a container can live in. Raises LaunchError."""
    num_bytes = amount(option, value)
    if num_bytes < LEAST_MEMORY:
        raise LaunchError(
            "{option} {value!r} is {actual:g} bytes",
            hint="write the unit, as in {value2}Gi",
            option=option,
            value=value,
            actual=float(num_bytes),
            value2=value.rstrip("m"),
        )


def image(option: str, value: str) -> None:
    """A reference to an image: [DOMAIN[:PORT]/]PATH[:TAG][@DIGEST], the path in small letters. Raises LaunchError."""
    match = _IMAGE.fullmatch(value)
    if match is None:
        small = _IMAGE.fullmatch(value.lower())
        hint = (
            Message("its path is written in small letters: {value}", value=value.lower())
            if small
            else Message("as in registry.example.com/team/train:1")
        )
        raise _wrong(option, value, "[REGISTRY[:PORT]/]PATH[:TAG][@DIGEST]", hint)
    if len(match["name"]) > MAX_IMAGE_NAME:
        raise LaunchError(
            "{option}: the image's name is longer than {max_image_name} letters",
            hint="shorten its path",
            option=option,
            max_image_name=MAX_IMAGE_NAME,
        )


def absolute(option: str, value: str) -> None:
    """A path in a container (OCI runtime-spec config.md: process.cwd is absolute). Raises LaunchError."""
    if not value.startswith("/") or "\0" in value:
        raise _wrong(option, value, Message("an absolute path"), Message("as in /work"))


def _wrong(option: str, value: str, wanted: str, hint: str) -> LaunchError:
    return LaunchError(
        Message("{option} {value!r}: Kubernetes takes {wanted} there", option=option, value=value, wanted=wanted),
        hint=hint,
    )
