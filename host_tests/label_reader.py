"""Read a label sheet back: PDFium renders it, ZXing decodes the QR codes."""

import pypdfium2
import zxingcpp

_SCALE = 3  # of 72 dpi


def read_labels(pdf: bytes) -> list[str]:
    """The texts of all QR codes, page by page, from left to right and top to bottom."""
    found: list[str] = []
    document = pypdfium2.PdfDocument(pdf)
    for page in document:
        image = page.render(scale=_SCALE).to_pil()
        codes = zxingcpp.read_barcodes(image)
        codes.sort(key=lambda code: (code.position.top_left.y // 50, code.position.top_left.x))
        found += [code.text for code in codes]
    return found


def read_text(pdf: bytes) -> list[str]:
    """What is written on each page."""
    return [page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(pdf)]
