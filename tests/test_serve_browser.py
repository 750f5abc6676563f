"""The page of `limbeck serve` in a browser: typing, rankings side by side, keys, and documents that try to be markup."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from browsers import NEEDS_CHROMIUM
from limbeck.recipes.toy_embedding import WORDS
from limbeck.serve import Finder, Server
from search_toys import search_folder

pytestmark = NEEDS_CHROMIUM
HOSTILE = "<img src=x onerror=alert(1)>"
LONG = "a.very.long_name." * 12
DOCUMENTS = {f"lib.d{place}": f"{a} {b} {a}" for place, (a, b) in enumerate(zip(WORDS, WORDS[3:] + WORDS))}
DOCUMENTS |= {f"<b>{HOSTILE}</b>": f"one {HOSTILE} <script>document.title = 'taken'</script>", LONG: "one " * 400}
SETTLED = "!document.querySelector('.rankings').classList.contains('old')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    examples = [{"query": "one four", "id": "lib.d0"}, {"query": HOSTILE, "id": "lib.d1"}]
    folder = search_folder(tmp_path_factory.mktemp("served"), DOCUMENTS, examples=examples)
    with Server(Finder(folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


class Visit:
    """The page, with what it asked for and what went wrong."""

    def __init__(self, browser: Any, server: Server, width: int = 1280, scheme: str = "light", path: str = ""):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message) or dialog.dismiss())
        self.page.goto(server.address + path)
        self.wait("document.querySelectorAll('section').length === 3")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: Any) -> None:
        self.context.close()

    def wait(self, condition: str) -> None:
        """Until the condition holds; the page forbids eval, and so Playwright's own way of waiting."""
        for _ in range(250):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"never came true: {condition}")

    def search(self, query: str) -> None:
        self.page.fill("input", query)
        self.page.keyboard.press("Enter")
        self.wait(f"{SETTLED} && document.querySelectorAll('section li').length")

    def names(self, column: str) -> list[str]:
        return self.page.locator(f"section.{column} .name").all_text_contents()

    def focused(self) -> str:
        return self.page.evaluate(
            "(() => { const at = document.activeElement, list = at.closest('section');"
            "return list ? list.className + [...list.querySelectorAll('summary')].indexOf(at) : at.tagName; })()"
        )


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    with Visit(browser, server) as opened:
        yield opened


def test_a_query_that_is_typed_is_answered_by_all_three(visit, server):
    visit.page.keyboard.type("seven ten", delay=5)  # the query has the focus from the beginning
    visit.wait(f"{SETTLED} && document.querySelectorAll('section.bm25 li').length > 1")
    for who in ("student", "teacher", "bm25"):
        assert visit.names(who) == [hit["id"] for hit in server.finder.search(who, "seven ten")["hits"]]
        assert visit.page.locator(f"section.{who} .time").inner_text().endswith("ms")
    assert "of 10 documents are the same" in visit.page.locator(".said").inner_text()
    mark = visit.page.locator("section.student .others span").first
    who, place = ("teacher" if "Teacher" in mark.get_attribute("title") else "bm25"), int(mark.inner_text())
    name = mark.locator("xpath=ancestor::li").locator(".name").inner_text()
    assert visit.names(who)[place - 1] == name
    assert visit.problems == []
    assert {url.split("/")[2] for url in visit.requests if not url.startswith("data:")} == {
        f"127.0.0.1:{server.server_port}"
    }


def test_an_example_marks_the_document_it_was_taken_from(visit):
    visit.page.get_by_role("button", name="one four").click()
    visit.wait(f"{SETTLED} && document.querySelector('li.wanted')")
    assert set(visit.page.locator("li.wanted .name").all_text_contents()) == {"lib.d0"}
    assert "The document that this is the first sentence of" in visit.page.locator(".said").inner_text()


def test_documents_are_text_and_never_markup(visit):
    title = visit.page.title()
    visit.search(HOSTILE + " one img script")
    assert f"<b>{HOSTILE}</b>" in visit.names("bm25")
    visit.page.locator("section.bm25 li", has_text="onerror").first.locator("summary").click()
    assert visit.page.locator("section.bm25 details[open] .text").inner_text() == DOCUMENTS[f"<b>{HOSTILE}</b>"]
    assert visit.page.locator("main img, main b b, main script").count() == 0
    assert visit.page.title() == title
    assert visit.problems == []


def test_empty_and_long_queries(visit):
    visit.search("one " * 2000)
    assert "Only the first 2,000 characters" in visit.page.locator(".said").inner_text()
    assert len(visit.names("student")) == 10
    visit.page.fill("input", "   ")
    visit.wait("document.querySelectorAll('section li').length === 0")
    assert visit.page.locator(".said").inner_text() == ""
    visit.search("xylophone")
    assert visit.page.locator("section.bm25 .none").inner_text() == "No document has a word of the query."
    assert visit.problems == []


def test_all_can_be_done_with_keys(visit):
    visit.search("seven ten")
    press, steps = visit.page.keyboard.press, []
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp"):
        press(key)
        steps.append(visit.focused())
    assert steps == ["student0", "student1", "teacher1", "bm251", "bm251", "teacher1", "teacher0"]
    press("Enter")
    assert visit.page.locator("section.teacher details[open]").count() == 1
    press("ArrowUp")
    assert visit.focused() == "INPUT"
    press("ArrowDown")
    press("/")
    assert visit.focused() == "INPUT"
    press("Escape")
    visit.wait("document.querySelectorAll('section li').length === 0")
    assert visit.page.input_value("input") == ""


def test_the_address_holds_the_query(browser, server):
    with Visit(browser, server, path="#q=seven%20ten") as visit:
        visit.wait("document.querySelectorAll('section.bm25 li').length > 0")
        assert visit.page.input_value("input") == "seven ten"


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_it_fits(browser, server, width):
    with Visit(browser, server, width) as visit:
        visit.search("one four")
        assert LONG in visit.names("bm25") + visit.names("student")
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        lefts = [visit.page.locator(f"section.{who}").bounding_box()["x"] for who in ("student", "teacher")]
        assert (lefts[0] < lefts[1]) == (width > 700)  # side by side where there is room


def test_a_server_that_is_gone_is_said(browser, server):
    with Visit(browser, server) as visit:
        visit.page.route("**/search", lambda route: route.abort())
        visit.page.fill("input", "one")
        visit.wait("document.querySelector('.said.error')")
        assert "Is limbeck serve still running?" in visit.page.locator(".said").inner_text()


def test_text_has_enough_contrast_in_both_schemes(browser, server):
    """WCAG AA: 4.5 for words, 3 for marks, against the page."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in ("light", "dark"):
        with Visit(browser, server, scheme=scheme) as visit:
            of = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
            marks = ["student", "teacher", "bm25"]
            pairs = [(name, "paper") for name in ["ink", "ink-soft", "link", "bad", *marks]] + [("ink-soft", "wanted")]
            for name, ground in pairs:
                pair = sorted(light(visit.page.evaluate(of, each)) for each in (name, ground))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= (3 if name in marks else 4.5), f"{name} in {scheme}"
