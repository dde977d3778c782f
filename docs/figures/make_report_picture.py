"""Takes the picture of a report in README: the first part of the page, in a browser.

Run: ``python docs/figures/make_report_picture.py runs/digits/report.html`` after ``make demo``, with Chromium.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT, COLOURS = 1000, 1090, 64

with sync_playwright() as play:
    browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    page.goto(Path(sys.argv[1]).absolute().as_uri())
    picture = Image.open(io.BytesIO(page.screenshot()))
picture.convert("RGB").quantize(COLOURS).save(Path(__file__).with_name("report.png"), optimize=True)
