"""What can go wrong, as one tree. Each class owns the exit code of the command line.

    LcodecError                  1  anything below
    ├── UsageError               2  options that do not fit together
    ├── InputError               3  an image that cannot be read or is not suitable
    ├── OutputError              4  output exists, cannot be written, equals the input
    │   └── OutputExists            exists, which was seen only when it was to appear
    ├── ModelError               5  model missing, damaged, or not the one the stream needs
    ├── StreamError              6  the .lic data is at fault
    │   ├── NotLcodec               not a .lic file at all
    │   ├── UnsupportedVersion      a newer format, or a critical section this version does not know
    │   ├── Truncated               ends too early
    │   ├── Corrupt                 checksum or content does not hold
    │   ├── LimitExceeded           asks for more than a limit allows
    │   └── Incomplete           3  decoded and written with --allow-partial, but parts are missing
    └── DeviceError              7  the device asked for is not there

3 is "not as it was asked for, because of the input" both ways: what was read is no image, or is not all there. Only
--allow-partial can give the second, and only then there is an output.
A batch in which some files failed exits with the code of the first failure. 130 is an interrupt (Ctrl-C).
"""

from __future__ import annotations

from typing import Any


class LcodecError(Exception):
    """Base of all errors that lcodec raises on purpose; `hint` says what to try, `details` what else is known."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.details: dict[str, Any] = {}


class UsageError(LcodecError, ValueError):
    """Options or arguments that do not fit together or lie out of range."""

    exit_code = 2


class InputError(LcodecError):
    """An input image that cannot be read or that the codec cannot represent."""

    exit_code = 3


class OutputError(LcodecError):
    """An output that exists already, cannot be written, or is the input itself."""

    exit_code = 4


class OutputExists(OutputError):
    """An output that was not there when the work began, and is when it is to appear."""


class ModelError(LcodecError):
    """A model that is missing, damaged, or not the one that a stream was made with."""

    exit_code = 5


class StreamError(LcodecError):
    """The .lic data cannot be decoded."""

    exit_code = 6


class NotLcodec(StreamError):
    """The data does not start with the magic of a .lic file."""


class UnsupportedVersion(StreamError):
    """A format version, or a critical section, that this program does not know."""


class Truncated(StreamError):
    """The data ends before what it announces."""


class Corrupt(StreamError):
    """A checksum fails or the content contradicts itself."""


class LimitExceeded(StreamError):
    """Decoding would need more of something than its limit allows, see `lcodec.limits`."""


class Incomplete(StreamError):
    """An image was decoded and written, but without the parts that are damaged. details: where these are.

    Made from its message alone, as unpickling does it, it gets them afterwards.
    """

    exit_code = 3

    def __init__(self, message: str, details: dict[str, Any] | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.details = details or {}


class DeviceError(LcodecError):
    """The device asked for is not available."""

    exit_code = 7
