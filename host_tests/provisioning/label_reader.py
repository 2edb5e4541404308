"""Read a label sheet back: PDFium renders it, ZXing decodes the QR codes."""

import pypdfium2
import zxingcpp

_MM = 72 / 25.4
_SCALE = 3  # of 72 dpi

# The labels of a page, in mm, as their maker cuts them.
_LEFT, _TOP = 7.2, 12.9
_WIDTH, _HEIGHT = 63.5, 33.9
_PITCH = 66  # from one label to the one beside it
_COLUMNS, _ROWS = 3, 8


def read_labels(pdf: bytes) -> list[str]:
    """The texts of all QR codes, page by page, from left to right and top to bottom.

    Each is read from a picture of its label alone, as a person scans it. In a picture of a page
    their order would be a guess: within a row, positions differ by a dot or two.
    """
    found: list[str] = []
    for page in pypdfium2.PdfDocument(pdf):
        for place in range(_COLUMNS * _ROWS):
            row, column = divmod(place, _COLUMNS)
            image = page.render(scale=_SCALE, crop=_margins(page, row, column)).to_pil()
            found += [code.text for code in zxingcpp.read_barcodes(image)]
    return found


def _margins(page: pypdfium2.PdfPage, row: int, column: int) -> tuple[float, ...]:
    """What is around a label: left, bottom, right and top, in points."""
    width, height = page.get_size()
    left, top = (_LEFT + column * _PITCH) * _MM, (_TOP + row * _HEIGHT) * _MM
    return left, height - top - _HEIGHT * _MM, width - left - _WIDTH * _MM, top


def read_text(pdf: bytes) -> list[str]:
    """What is written on each page."""
    return [page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(pdf)]
