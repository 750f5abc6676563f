"""The page in a browser without network: it draws, fits, adapts, copies and prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sample_records as records
from sample_language import language

from browsers import NEEDS_CHROMIUM
from limbeck.report import render

pytestmark = NEEDS_CHROMIUM
INK = "getComputedStyle(document.querySelector('#plot-size .xtitle')).fill"
LINE = "getComputedStyle(document.querySelector('#plot-reliability1 .scatterlayer .trace:last-child .js-line')).stroke"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    made = {"full": records.full(), "hostile": records.worse_than_alone(), "least": records.only_student(),
            "regression": records.regression(), "language": language(), "one seed": one_seed()}  # fmt: skip
    return {name: render(record, folder / f"{name}.html") for name, record in made.items()}


def one_seed() -> dict[str, Any]:
    record = records.full()
    for model in record["models"]:
        for kind in ("scores", "agreement"):
            model[kind] = {
                name: {"mean": value["mean"], "std": None, "values": value["values"][:1]}
                for name, value in (model.get(kind) or {}).items()
            }
    return record | {"seeds": [0]}


class Visit:
    """A page opened offline, with what it asked for and what went wrong."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light", **more: Any):
        view = {"width": width, "height": 900}
        self.context = browser.new_context(offline=True, viewport=view, color_scheme=scheme, **more)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message) or dialog.dismiss())
        self.page.goto(path.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: Any) -> None:
        self.context.close()

    def wait(self, condition: str) -> None:
        """Until the condition holds; the page forbids eval, and so Playwright's own way of waiting."""
        for _ in range(100):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"never came true: {condition}")

    def undrawn(self) -> list[str]:
        """The ids of plots in which nothing was drawn."""
        marks = "path.point, .points path, .lines path, .heatmaplayer image, .barlayer path"
        return self.page.evaluate(
            "marks => [...document.querySelectorAll('.plot')].filter(plot => !plot.querySelector(marks)).map(plot => plot.id)",
            marks,
        )

    def overflow(self) -> list[str]:
        """What sticks out of the window sideways, outside a box that scrolls."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll("body *")].filter(each =>
                 each.getBoundingClientRect().right > document.documentElement.clientWidth + 1
                 && !each.closest(".scroll, pre, svg, .skip") && each.getClientRects().length
               ).map(each => each.tagName + "." + each.className)"""
        )

    def broken_words(self) -> list[str]:
        """Words of the models table that go over two lines."""
        return self.page.evaluate(
            """() => {
                 const found = [], range = document.createRange();
                 const walk = document.createTreeWalker(document.querySelector("#models table"), NodeFilter.SHOW_TEXT);
                 while (walk.nextNode()) for (const word of walk.currentNode.data.matchAll(/[a-z]+/gi)) {
                   range.setStart(walk.currentNode, word.index);
                   range.setEnd(walk.currentNode, word.index + word[0].length);
                   if (new Set([...range.getClientRects()].map(rect => rect.top)).size > 1) found.push(word[0]);
                 }
                 return found;
               }"""
        )


@pytest.fixture(scope="module")
def visits(browser: Any, reports: dict[str, Path]) -> Iterator[dict[str, Visit]]:
    """Pages that several tests look at, each opened once; who changes one puts it back."""
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    opened = {"wide": Visit(browser, reports["full"], 1280, **allowed), "narrow": Visit(browser, reports["full"], 400),
              "hostile": Visit(browser, reports["hostile"], 400)}  # fmt: skip
    yield opened
    for visit in opened.values():
        visit.context.close()


@pytest.mark.parametrize("name", ["wide", "narrow", "hostile"])
def test_it_draws_offline_without_a_word_on_the_console_and_fits(visits, name):
    visit = visits[name]
    assert visit.page.locator(".plot").count() == 10
    assert visit.undrawn() == []
    assert visit.overflow() == []
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.problems == []
    assert [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert sum(url.startswith("file:") for url in visit.requests) == 1  # the page itself, nothing beside it


@pytest.mark.parametrize(("name", "plots"), [("least", 0), ("regression", 3), ("language", 9)])
def test_records_with_less(browser, reports, name, plots):
    with Visit(browser, reports[name], 400) as visit:
        assert visit.page.locator(".plot").count() == plots
        assert (visit.undrawn(), visit.overflow(), visit.problems) == ([], [], [])


def test_the_models_table_needs_no_scrolling_on_a_phone(visits):
    box = "document.querySelector('#models .scroll')"
    wide, seen = visits["narrow"].page.evaluate(f"[{box}.scrollWidth, {box}.clientWidth]")
    assert wide <= seen
    assert visits["narrow"].broken_words() == []


def test_no_word_of_a_run_of_one_seed_is_broken_on_a_phone(browser, reports):
    with Visit(browser, reports["one seed"], 400) as visit:
        assert visit.broken_words() == []
        assert "points" in visit.page.locator("#models").inner_text()


def test_the_legend_lies_below_its_plot(visits):
    legend = visits["narrow"].page.locator("#plot-curves0 .legend").bounding_box()
    axis = visits["narrow"].page.locator("#plot-curves0 .xtitle").bounding_box()
    assert legend["y"] >= axis["y"] + axis["height"] - 1


def test_tab_reaches_everything_that_can_be_used(visits):
    page, reached = visits["narrow"].page, []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert reached[0] == "skip"
    assert reached.count("scroll") == 4  # models, fidelity, disagreements, exports
    assert reached.count("copy") >= 2
    assert "SUMMARY" in reached


def test_colours_follow_light_and_dark(visits):
    visit = visits["wide"]
    look = f"[{INK}, {LINE}, getComputedStyle(document.documentElement).backgroundColor]"
    light = visit.page.evaluate(look)
    visit.page.emulate_media(color_scheme="dark")
    visit.wait(f"{INK} !== '{light[0]}'")
    dark = visit.page.evaluate(look)
    assert (light[1], dark[1]) == ("rgb(213, 94, 0)", "rgb(245, 138, 60)")
    assert (light[2], dark[2]) == ("rgb(255, 255, 255)", "rgb(20, 23, 27)")
    visit.page.emulate_media(color_scheme="light")
    visit.wait(f"{INK} === '{light[0]}'")
    assert visit.problems == []


def test_printing_is_light_and_comes_back(visits):
    visit = visits["wide"]
    visit.page.emulate_media(color_scheme="dark")
    visit.wait(f"{INK} !== 'rgb(84, 91, 102)'")
    before = visit.page.evaluate(INK)
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.page.evaluate(INK) == "rgb(84, 91, 102)"
    assert visit.page.evaluate("document.querySelector('main').clientWidth") == 680
    assert visit.undrawn() == []
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.page.evaluate(INK) == before
    visit.page.emulate_media(color_scheme="light")
    assert visit.problems == []


def test_a_class_named_like_a_colour_stays_a_word(visits):
    ticks = visits["hostile"].page.locator("#plot-confusion .ytick text").all_text_contents()
    assert ticks == ["<script>alert…", "</script><b>b…", '%{x} "quoted"…', "var(--student)", "aaaaaaaaaaaaa…", "7"]


def test_copy_copies_the_line_as_it_was_written(visits):
    visit = visits["wide"]
    visit.page.get_by_role("button", name="Copy: In a shell").focus()
    visit.page.keyboard.press("Enter")
    visit.wait("document.querySelectorAll('button.copy')[0].textContent === 'Copied'")
    assert visit.page.evaluate("navigator.clipboard.readText()") == records.COMMAND
    visit.page.get_by_role("button", name="Copy: In Python").click()
    visit.wait("document.querySelectorAll('button.copy')[1].textContent === 'Copied'")
    assert visit.page.evaluate("navigator.clipboard.readText()").replace("\r\n", "\n") == records.PYTHON
    assert visit.problems == []


def test_without_a_clipboard_the_code_is_selected(visits):
    page = visits["wide"].page
    page.evaluate("navigator.clipboard.writeText = () => Promise.reject(); document.execCommand = () => false")
    page.get_by_role("button", name="Copy: In a shell").click()
    visits["wide"].wait("document.querySelectorAll('button.copy')[0].textContent === 'Selected: press Ctrl+C'")
    assert page.evaluate("getSelection().toString()").split() == records.COMMAND.split()
    page.evaluate("delete navigator.clipboard.writeText; delete document.execCommand")


def test_without_scripts_the_tables_are_there_and_no_dead_button(browser, reports):
    with Visit(browser, reports["full"], java_script_enabled=False) as visit:
        assert "95.1" in visit.page.locator("#models table").inner_text()
        assert visit.page.locator("button.copy >> visible=true").count() == 0
        assert visit.page.locator("noscript p").inner_text() == "The plots need JavaScript; the tables do not."


def test_text_has_enough_contrast_in_both_schemes(browser, reports):
    """WCAG AA: 4.5 for words, 3 for marks, against the page."""

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in ("light", "dark"):
        with Visit(browser, reports["least"], scheme=scheme) as visit:
            marks = ["teacher", "student", "baseline", *(f"term{place}" for place in range(1, 7))]
            for name in ["ink", "ink-soft", "link", "good", "bad", *marks]:
                of = "name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
                pair = sorted(light(visit.page.evaluate(of, each)) for each in (name, "paper"))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= (3 if name in marks else 4.5), f"{name} in {scheme}"
