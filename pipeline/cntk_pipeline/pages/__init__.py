"""Pages for a browser: each is one file of HTML that needs no network."""

from cntk_pipeline.pages.compare import make_comparison
from cntk_pipeline.pages.page import Page, require_page, write_page
from cntk_pipeline.pages.report import make_report_page

__all__ = ["Page", "make_comparison", "make_report_page", "require_page", "write_page"]
