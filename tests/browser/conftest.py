"""Chromium with the real frontend on the real server: `frontend` comes with Nodes 2.0 off and on."""

import pytest
from playwright.sync_api import sync_playwright

from frontend import CHROMIUM_FLAGS, Frontend, find_chromium
from needs import missing

HOW_TO_GET_CHROMIUM = (
    "No Chromium found. How to fix: `apt-get install chromium libatomic1`, or set CHROMIUM to a Chromium's path."
)


@pytest.fixture(scope="session")
def browser():
    chromium = find_chromium()
    if chromium is None:
        missing(HOW_TO_GET_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=[False, True], ids=["classic", "nodes2"])
def frontend(browser, comfyui, request):
    """An open page; the test fails when it leaves a console error behind."""
    frontend = Frontend(comfyui, browser, nodes_2=request.param)
    yield frontend
    frontend.close()
    assert frontend.errors == []
