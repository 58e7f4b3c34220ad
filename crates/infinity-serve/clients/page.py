"""Uses the page of `infinity serve` as a person does, in headless Chromium. Usage: page.py http://127.0.0.1:8080 [chromium]

Needs the package `playwright` and a Chromium, which the second argument may name. Opens, asks, streams, forks, drops a
file, reloads and looks whether anything was lost; everything but the file by keyboard alone.
"""

import pathlib
import sys
import tempfile

from playwright.sync_api import expect, sync_playwright

address, *browser = sys.argv[1:]
folder = pathlib.Path(tempfile.mkdtemp())
story = folder / "story.txt"
story.write_text("One day Lina met Omar in the garden. " * 200)

with sync_playwright() as play:
    options = {"executable_path": browser[0]} if browser else {}
    page = play.chromium.launch(args=["--no-sandbox"], **options).new_page()
    failures = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(address)
    expect(page.locator("#model")).not_to_contain_text("Connecting")

    page.locator("#new").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#sessions li")).to_have_count(1)
    page.locator("#question").focus()
    page.keyboard.type("Tell me of Lina")
    page.keyboard.press("Enter")
    expect(page.locator("#send")).to_be_visible(timeout=60_000)
    expect(page.locator("#log")).to_contain_text("Tell me of Lina")
    expect(page.locator("#stop")).to_be_hidden(timeout=60_000)
    said = page.locator("#log").inner_text()
    assert len(said) > len("Tell me of Lina") + 5, said

    page.locator("#fork").focus()
    page.keyboard.press("Enter")
    if page.locator("#dialog").evaluate("dialog => dialog.open"):
        page.keyboard.press("Enter")
    expect(page.locator("#sessions li")).to_have_count(2)

    before = page.locator("#facts").inner_text()
    page.locator("#file").set_input_files(str(story))
    expect(page.locator("#facts")).not_to_have_text(before, timeout=60_000)
    expect(page.locator("#reading")).to_be_hidden(timeout=60_000)
    facts, log = page.locator("#facts").inner_text(), page.locator("#log").inner_text()

    page.reload()
    expect(page.locator("#sessions li")).to_have_count(2)
    expect(page.locator("#facts")).to_have_text(facts, timeout=10_000)
    expect(page.locator("#log")).to_contain_text("Tell me of Lina")
    assert page.locator("#log").inner_text() == log, "the conversation is as it was"
    assert not failures, failures
    print("page ok:", facts)
