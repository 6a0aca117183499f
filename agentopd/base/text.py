"""Text from elsewhere, which may be no Unicode: half of a surrogate pair fits into no file.

Such halves come from bytes that were decoded with `surrogateescape`, as Python decodes the names of
files, and from `"\\ud800"` in JSON.
"""

from __future__ import annotations


def escaped(text: str) -> str:
    """`text` as it can be written, what is no Unicode as an escape: `\\udc81`."""
    return text.encode(errors="backslashreplace").decode()


def is_unicode(text: str) -> bool:
    """Whether `text` can be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_unicode(text: str, what: str) -> str:
    """`text`, if it can be written.

    Args:
        what: names it in the message.

    Raises:
        UnicodeEncodeError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        error.reason = (
            f"{what} is no Unicode text, it holds half of a surrogate pair, which fits into no "
            'file; decode bytes with errors="replace"'
        )
        raise
    return text


def raised(error: BaseException) -> str:
    """An error in words that can be written: its type and what it says."""
    name = type(error).__name__
    try:
        said = str(error)
    except Exception as broken:  # what an exception says is code of whoever wrote it
        return f"{name}, which cannot say what it is: {type(broken).__name__}"
    return escaped(f"{name}: {said}")
