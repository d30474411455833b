"""Benchmarks of the codec and of its parts; `lcodec bench` is `run.py`.

    coder.py     one interface over all codecs: formats.py (Pillow), programs.py, learned.py (ours), compressai.py
    metrics.py   PSNR, PSNR-YUV, MS-SSIM, SSIMULACRA 2
    run.py       rows, kept by store.py as schema.py says; speed.py; summary.py: curves and BD-rates
    table.py, plot.py, readme.py, page/, compare.py     what people look at
    effort.py                    bits that --effort saves
    entropy.py, wavefront.py     speed of the coder's parts alone
"""

from lcodec.bench.store import decoded

__all__ = ["decoded"]
