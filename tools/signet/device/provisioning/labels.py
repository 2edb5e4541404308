"""Label sheets: a PDF with a QR code for each device: its id, and a proof of ownership.

The proof is a claim code, 128 random bits in base 32, which is made when the label is and stands
nowhere but on it; the inventory keeps its hash. Whoever holds the box can prove it to a server that
knows the hash; nobody can from the id, the MAC, a stolen inventory or another device's label.
A label that was lost is replaced by one with a new code, and the old one is void.

The sheets are A4 with 3 × 8 labels of 63.5 × 33.9 mm.
"""

import base64
import hashlib
import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import segno
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

_CODE_LEN = 16
_COLUMNS, _ROWS = 3, 8
_WIDTH, _HEIGHT = 63.5 * mm, 33.9 * mm
_LEFT, _TOP = 7.2 * mm, 12.9 * mm
_PITCH = 66 * mm  # from one label to the one beside it
_QR_LEN = 28 * mm
_QR_QUIET = 4  # modules around the code (ISO/IEC 18004)
_GROUP = 5  # characters of a claim code between spaces
_PER_LINE = 15


@dataclass(frozen=True)
class Label:
    """What a label says. code: the claim code, a secret."""

    id: str
    model: str
    hw: str
    code: str

    @property
    def text(self) -> str:
        """The content of the QR code."""
        return f"signet:1:{self.id}:{self.code}"


def new_code() -> str:
    """A claim code: 26 characters of A-Z and 2-7."""
    return base64.b32encode(secrets.token_bytes(_CODE_LEN)).decode().rstrip("=")


def claim_hash(device_id: str, code: str) -> str:
    """What the inventory keeps of a claim code: SHA-256 of "<id>:<code>", hexadecimal.

    The code has 128 random bits, so a slow hash would add nothing.
    """
    return hashlib.sha256(f"{device_id}:{code}".encode()).hexdigest()


def make_sheet(labels: Sequence[Label], number: str) -> bytes:
    """The PDF; `number` stands at the foot of every page."""
    output = io.BytesIO()
    canvas = Canvas(output, pagesize=A4)
    canvas.setTitle(f"Signet labels {number}")
    per_page = _COLUMNS * _ROWS
    for first in range(0, len(labels), per_page):
        for place, label in enumerate(labels[first : first + per_page]):
            row, column = divmod(place, _COLUMNS)
            _draw(canvas, _LEFT + column * _PITCH, A4[1] - _TOP - (row + 1) * _HEIGHT, label)
        canvas.setFont("Helvetica", 6)
        page, pages = first // per_page + 1, -(-len(labels) // per_page)
        canvas.drawCentredString(A4[0] / 2, 5 * mm, f"sheet {number}, page {page} of {pages}")
        canvas.showPage()
    canvas.save()
    return output.getvalue()


def _draw(canvas: Canvas, x: float, y: float, label: Label) -> None:
    """One label; x, y: its lower left corner, in points."""
    _draw_qr(canvas, x + 1 * mm, y + (_HEIGHT - _QR_LEN) / 2, label.text)
    left, top = x + 31 * mm, y + _HEIGHT
    size = min(10.0, 31 * mm / max(canvas.stringWidth(label.id, "Helvetica-Bold", 1), 1))
    canvas.setFont("Helvetica-Bold", size)
    canvas.drawString(left, top - 9 * mm, label.id)
    canvas.setFont("Helvetica", 6)
    canvas.drawString(left, top - 13 * mm, f"{label.model[:24]} {label.hw}")
    canvas.setFont("Courier", 6)
    for line, start in enumerate(range(0, len(label.code), _PER_LINE)):
        part = label.code[start : start + _PER_LINE]
        groups = [part[at : at + _GROUP] for at in range(0, len(part), _GROUP)]
        canvas.drawString(left, top - (19 + 3 * line) * mm, " ".join(groups))


def _draw_qr(canvas: Canvas, x: float, y: float, text: str) -> None:
    """A QR code as one path of horizontal bars, with error correction M (15 %)."""
    rows = segno.make_qr(text, error="m").matrix
    module = _QR_LEN / (len(rows) + 2 * _QR_QUIET)
    path = canvas.beginPath()
    for number, row in enumerate(rows):
        start = None
        for column, dark in enumerate([*row, 0]):
            if dark and start is None:
                start = column
            elif not dark and start is not None:
                top = y + _QR_LEN - (number + 1 + _QR_QUIET) * module
                path.rect(x + (start + _QR_QUIET) * module, top, (column - start) * module, module)
                start = None
    canvas.drawPath(path, stroke=0, fill=1)
