"""Draw what a network has made of an image: the image, its gradient and its Laplacian."""

from __future__ import annotations

import io
import time
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from models.derivatives import Derivatives, derivatives
from pipelines.data import PixelData
from pipelines.images.interfaces import Images
from pipelines.images.pixels import middles
from run_folder.folder import RunFolder
from run_folder.result_lines import Record, moment
from train_eval import Trainer
from training.optimizers import evaluated_weights
from training.run_log import RunLog

Numbers: TypeAlias = npt.NDArray[np.float64]

PANEL = 256  # pixels of a panel's side, at least
MARGIN, LINE = 8, 18  # pixels around panels, and of a line of text
BRIGHTEST = 99.5  # percentile of the target's numbers that is white; a few edges go beyond


class PictureLog(RunLog):
    """Write results as `RunLog` does, and pictures: after some evaluations and at the end.

    They are of the weights that are evaluated. The time that they take counts for nothing.

    Args:
        trainer: of a network of coordinates.
        interval: evaluations from one picture to the next; 0 for none.
    """

    def __init__(self, trainer: Trainer[PixelData], interval: int):
        super().__init__(trainer.task, trainer.folder)
        self.trainer, self.interval = trainer, interval

    def add(self, record: Record) -> None:
        super().add(record)
        trainer = self.trainer
        number = len(trainer.state.records) + 1
        is_last = record["step"] == trainer.total_steps
        if not (self.interval and (is_last or number % self.interval == 0) and self.folder.writes):
            return
        with evaluated_weights(trainer.optimizer):
            image = trainer.data.image
            points = middles(len(image)).to(trainer.device)
            found = derivatives(trainer.model, points)
        result = f"{moment(record)}, PSNR {record['test']['psnr']:.2f} dB"
        name = f"{RunFolder.PICTURES}/{moment(record).replace(' ', '_')}.png"
        self.folder.write_picture(name, png_of(sheet(image, found, result)))
        trainer.clock = time.perf_counter()

    def end(self, records: list[Record]) -> None:
        trainer = self.trainer
        if self.folder.writes:
            with torch.no_grad(), trainer.objective.precision():
                batches = middles(len(trainer.data.image)).to(trainer.device).split(2**16)
                fit = torch.cat([trainer.model(each).float().cpu() for each in batches])
            pixels = to_bytes(fit.numpy().reshape(trainer.data.image.shape))
            self.folder.write_picture(RunFolder.FIT, png_of(picture_of(pixels)))
        super().end(records)


def png_of(image: Image.Image) -> bytes:
    """Return a picture as the content of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def to_bytes(values: npt.NDArray[np.floating]) -> Images:
    """Return numbers on [-1, 1] as 0 to 255; those outside are clipped, here alone."""
    return np.rint((np.clip(np.nan_to_num(values), -1, 1) + 1) * 127.5).astype(np.uint8)


def picture_of(pixels: Images) -> Image.Image:
    """Return (H, W, 1 or 3) as a picture."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


class Fields(NamedTuple):
    """Hold what a sheet shows of one image, each (side, side)."""

    slope: Numbers  # magnitude of the gradient of the mean over the channels
    laplacian: Numbers  # of the same


def fields_of_image(image: Images) -> Fields:
    """Return the derivatives of an image's pixels by differences, in the network's coordinates.

    They are central, one-sided at the edges; for the Laplacian the edges' pixels are repeated
    outside, as in scipy.ndimage.laplace(mode="nearest").
    """
    values = image.mean(-1) / 127.5 - 1
    step = 2 / len(image)
    slope = np.hypot(*np.gradient(values, step))
    padded = np.pad(values, 1, "edge")
    neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return Fields(slope, (neighbours - 4 * values) / step**2)


def sheet(image: Images, found: Derivatives, result: str) -> Image.Image:
    """Draw image, gradient and Laplacian below each other, of the target left and the fit right.

    Both sides have one scale, the target's: black is no slope, middle gray no curvature.

    Args:
        image: uint8 (side, side, channels), the target.
        found: what the network is at its pixels, row by row.
        result: a line above.
    """
    side = len(image)
    target = fields_of_image(image)
    gradient, laplacian = (each.cpu().numpy() for each in (found.gradient, found.laplacian))
    fit = Fields(np.hypot(*gradient.T).reshape(side, side), laplacian.reshape(side, side))
    steepest, strongest = (_brightest(np.abs(field)) for field in target)
    values = found.values.cpu().numpy().reshape(image.shape)
    slopes = [to_bytes(2 * each.slope / steepest - 1) for each in (target, fit)]
    curvatures = [to_bytes(each.laplacian / strongest) for each in (target, fit)]
    rows: list[tuple[str, list[Images]]] = [
        ("image", [image, to_bytes(values)]),
        ("gradient", slopes),
        (_laplacian_title(found), curvatures),
    ]
    scale = -(-PANEL // side)
    panel = side * scale
    height = len(rows) * (panel + LINE + MARGIN) + LINE + 2 * MARGIN
    drawn = Image.new("RGB", (2 * panel + 3 * MARGIN, height), "white")
    text = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(12)
    text.text((MARGIN, MARGIN), f"target | fit: {result}", "black", font)
    top = LINE + 2 * MARGIN
    for title, panels in rows:
        text.text((MARGIN, top), title, "black", font)
        for column, pixels in enumerate(panels):
            place = (MARGIN + column * (panel + MARGIN), top + LINE)
            whole = picture_of(pixels if pixels.ndim == 3 else pixels[..., None])
            drawn.paste(whole.resize((panel, panel), Image.Resampling.NEAREST), place)
        top += panel + LINE + MARGIN
    return drawn


def _brightest(values: Numbers) -> float:
    """Return the number that is white; of an image of one colour, any."""
    return float(np.percentile(values, BRIGHTEST)) or 1.0


def _laplacian_title(found: Derivatives) -> str:
    if not found.laplacian.any():
        return "Laplacian: the fit's is 0, as its activation is piecewise linear"
    return "Laplacian: the fit's by differences" if found.by_differences else "Laplacian"
