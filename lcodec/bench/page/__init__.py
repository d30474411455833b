"""The report page of a benchmark run: one HTML file that opens from disk and asks nothing of the network.

    write.py       results.json and pictures into the template
    pictures.py    which pictures are embedded, and what they may weigh
    matching.py    files of about the same rate
    places.py      where crops are cut
    source.py      originals, decoded pictures and streams of a run
    template.html, style.css, *.js    the page itself; vendor/ is Chart.js with its licence
"""

from lcodec.bench.page.write import write_page

__all__ = ["write_page"]
