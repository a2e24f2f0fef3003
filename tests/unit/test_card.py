"""The cards: what they say, how they escape it, and that they stay small."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from jupyter_ns.container import Change, Container, OOMLimit
from jupyter_ns.frontend import card, sliders, words
from jupyter_ns.frontend.svg import sparklines
from jupyter_ns.frontend.tables import change_list, namespace_table
from jupyter_ns.namespaces import KINDS, NamespaceID
from jupyter_ns.runner import MAX_OUTPUT_CHARS
from jupyter_ns.spec import ContainerSpec, LimitRecord, Limits
from jupyter_ns.usage import Usage

MIB = 2**20
LIMITS = Limits(memory_bytes=128 * MIB, nano_cpus=500_000_000, pids_limit=64)
SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script>\"'&\x1b[31m\u202e"


def out_of_memory_usage(number: int = 120) -> Usage:
    """A CPU saw-tooth that the quota cuts off at 50 %, and memory that rises to 128 MiB and an OOM kill."""
    usage = Usage()
    cpu = throttled = 0.0
    for i in range(number):
        rate = min(0.5, (i % 20) / 20)
        cpu += 0.1 * rate
        throttled += 0.04 if rate == 0.5 else 0.0
        memory = int(128 * MIB * (i + 1) / number)
        usage.append(
            {
                "time_s": i / 10,
                "cpu_s": cpu,
                "throttled_s": throttled,
                "memory_bytes": memory,
                "pids": 2 + i % 3,
            }
            | {"read_bytes": 4096 * i, "write_bytes": 0}
        )
    usage.events.append(((number - 1) / 10, "oom"))
    return usage


@pytest.fixture
def ended() -> Container:
    """A container killed for running out of memory, its time namespace left out."""
    container = Container(id="0123456789abcdef" * 4, spec=ContainerSpec(limits=LIMITS), name="brave_turing")
    container.status, container.reason, container.exit_code = "exited", "oom", 137
    container.usage = out_of_memory_usage()
    container.wall_seconds, container.cpu_seconds, container.throttled_seconds = 12.0, 4.5, 2.4
    container.peak_memory_bytes, container.peak_memory_source = 96 * MIB, "memory.max_usage_in_bytes"
    container.namespaces = {
        kind.name: NamespaceID(4026531830 + i, 4026531830 + i + (0 if kind.name == "time" else 500))
        for i, kind in enumerate(KINDS)
    }
    container.limits = [
        LimitRecord("memory_bytes", 128 * MIB, str(128 * MIB), "memory.limit_in_bytes"),
        LimitRecord("nano_cpus", 500_000_000, "50000 100000", "cpu.cfs_quota_us"),
    ]
    container.changes = [Change("A", "/tmp/new"), Change("C", "/etc/hosts"), Change("D", "/root/old")]
    container.weakened = ["no swap accounting on this host"]
    container.stdout = "x" * MAX_OUTPUT_CHARS + "\n[stdout: 12 further characters are not kept]\n"
    return container


@pytest.fixture
def hostile(ended: Container) -> Container:
    """The same, with hostile text wherever a container or a user could put any."""
    ended.name = EVIL
    ended.changes = [Change("A", f"/tmp/{EVIL}\udcff")]
    ended.weakened = [EVIL]
    ended.peak_memory_source = EVIL
    ended.limits = [LimitRecord("memory_bytes", EVIL, EVIL, EVIL)]
    return ended


class Tags(HTMLParser):
    """Collects tags and the text between them, and checks that tags are closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_limit_that_is_not_its_own_has_its_owner_s_name(ended: Container) -> None:
    assert "limit of" not in card.final_bundle(ended)[0]["text/plain"]
    ended.oom_limit = OOMLimit(f"/user.slice/{EVIL}", 64 * MIB)
    data, _ = card.final_bundle(ended)
    assert "out of memory at the limit of the cgroup /user.slice/" in data["text/plain"].splitlines()[0]
    assert "of the cgroup /user.slice/" in Tags(data["text/html"]).text
    assert all("64MiB" in text for text in data.values())


def svg_of(usage: Usage, limits: Limits = LIMITS) -> ElementTree.Element:
    return ElementTree.fromstring(sparklines(usage, limits))


def svg_text(root: ElementTree.Element) -> str:
    return " | ".join("".join(node.itertext()) for node in root.iter(f"{SVG}text"))


# The live plot


def test_the_plot_is_an_image_with_its_figures_in_words() -> None:
    root = svg_of(out_of_memory_usage())
    assert root.get("role") == "img"
    assert root.get("fill") == "currentColor"
    label = root.get("aria-label") or ""
    assert "CPU 50 % of 50 %" in label
    assert "Memory 128MiB of 128MiB" in label
    assert "PIDs 4 of 64" in label
    assert "throttled for 2.4" in label
    assert "out of memory at 11.9s" in label


def test_the_plot_marks_limits_throttling_and_oom() -> None:
    usage = out_of_memory_usage()
    text = svg_text(svg_of(usage))
    for wanted in ("limit 50 %", "limit 128MiB", "limit 64", "throttled 2.4", "✗ OOM", "0 s", "11.9s"):
        assert wanted in text
    source = sparklines(usage, LIMITS)
    assert source.count('stroke-dasharray="6 4"') == 3
    (shading,) = re.findall(rf'd="([^"]+)" fill="{words.AMBER}"', source)
    assert shading.count("M") == len(usage.throttled_spans) == 6


def test_without_limits_the_plot_names_peaks_instead() -> None:
    usage = Usage()
    usage.extend({"time_s": t, "cpu_s": t / 4, "memory_bytes": 3 * MIB, "pids": 1} for t in range(3))
    text = svg_text(svg_of(usage, Limits()))
    assert "limit" not in text
    assert "OOM" not in text
    for wanted in ("highest sample 25 %", "highest sample 3MiB", "highest sample 1"):
        assert wanted in text


def test_a_curve_at_its_limit_runs_along_the_limit_line() -> None:
    usage = Usage()
    usage.extend({"time_s": t, "memory_bytes": 128 * MIB} for t in range(5))
    memory = svg_of(usage).findall(f"{SVG}g")[1]
    dashed = next(p for p in memory.iter(f"{SVG}path") if p.get("stroke-dasharray"))
    curve = next(p for p in memory.iter(f"{SVG}path") if p.get("stroke") == words.BLUE)
    y = re.match(r"M0 (\d+)H", dashed.get("d") or "")
    assert y is not None
    assert set(re.findall(r"[ML]\d+ (\d+)", curve.get("d") or "")) == {y.group(1)}


@pytest.mark.parametrize("number", [0, 1, 2, 120, 600, 5000])
def test_the_plot_is_small_and_well_formed(number: int) -> None:
    usage = out_of_memory_usage(number) if number else Usage()
    source = sparklines(usage, LIMITS)
    ElementTree.fromstring(source)
    assert len(source.encode()) <= 5000


def test_the_plot_stays_small_when_every_other_sample_is_throttled() -> None:
    usage = Usage()
    for i in range(600):
        usage.append({"time_s": 97.0 * i, "cpu_s": 31.0 * i, "throttled_s": i // 2, "memory_bytes": i * 7919 % 10**8})
    usage.events += [(1000.0 * i, "oom") for i in range(40)]
    assert len(sparklines(usage, LIMITS).encode()) <= 5000


@pytest.mark.parametrize("colour", [words.GREEN, words.RED, words.AMBER, words.BLUE, words.GREY])
def test_colours_have_contrast_in_both_themes(colour: str) -> None:
    ink = _luminance(colour)
    assert (1.05) / (ink + 0.05) >= 3.9
    assert (ink + 0.05) / (_luminance("#111111") + 0.05) >= 3.9


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# The live card


def test_the_live_card_shows_state_time_plot_and_namespaces(ended: Container) -> None:
    ended.status = "running"
    source = card.live_html(ended, 3.2)
    tags = Tags(source)
    assert tags.names.count("svg") == 1
    for wanted in ("● running", "brave_turing", "0123456789ab", "3.2s", "≠ 4026532330", "= 4026531837"):
        assert wanted in tags.text
    assert "no swap accounting" in tags.text


def test_the_live_card_of_a_fresh_container_has_no_namespaces_yet() -> None:
    source = card.live_html(Container(id="a" * 64, spec=ContainerSpec()), 0.0)
    assert "○ created" in Tags(source).text
    assert "<table" not in source


# The frozen card


def test_the_frozen_card_says_everything_in_both_forms(ended: Container) -> None:
    data, metadata = card.final_bundle(ended)
    assert metadata == {}
    assert set(data) == {"text/html", "text/plain"}
    facts = (
        "out of memory, exit code 137 (SIGKILL)", "12s", "4.5s (38 % of one CPU)",
        "2.4s (20 % of the wall time)",
        "96MiB of 128MiB (75 %)", "memory.max_usage_in_bytes", "4 of 64", "at 11.9s", "stdout: 12 further",
        "128MiB → 128MiB", "memory.limit_in_bytes", "0.5 → 50000 100000", "≠ 4026532330", "= 4026531837",
        "1 added, 1 changed, 1 deleted", "/etc/hosts", "no swap accounting on this host",
    )  # fmt: skip
    text = Tags(data["text/html"]).text
    for fact in facts:
        assert fact in text
        assert fact in data["text/plain"]


def test_the_frozen_card_uses_only_tags_that_viewers_keep(ended: Container) -> None:
    names = set(Tags(card.final_bundle(ended)[0]["text/html"]).names)
    kept = {"div", "span", "b", "code", "table", "tr", "th", "td", "details", "summary"}
    assert names <= kept


def test_the_frozen_card_is_silent_about_what_did_not_happen() -> None:
    container = Container(id="a" * 64, spec=ContainerSpec(), status="exited", reason="exited", exit_code=0)
    container.wall_seconds = 1.5
    data, _ = card.final_bundle(container)
    assert data["text/plain"].startswith("✓ exit code 0 · aaaaaaaaaaaa · 1.5s\n")
    for absent in ("throttled", "weaker", "truncated", "files", "limit", "namespace"):
        assert absent not in data["text/plain"]
        assert absent not in Tags(data["text/html"]).text.lower()


def test_columns_of_the_plain_text_are_aligned(ended: Container) -> None:
    lines = card.final_bundle(ended)[0]["text/plain"].splitlines()
    first = lines[1 : lines.index("")]
    starts = {re.match(r"  \S+(?: \S+)* {2,}", line).end() for line in first}  # type: ignore[union-attr]
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("status", "reason", "code", "wanted"),
    [
        ("exited", "exited", 0, "✓ exit code 0"),
        ("exited", "exited", None, "✓ finished"),
        ("exited", "exited", 3, "✗ exit code 3"),
        ("exited", "exited", 139, "✗ exit code 139 (SIGSEGV)"),
        ("exited", "exited", 190, "✗ exit code 190"),
        ("exited", "timeout", 137, "✗ time limit reached, exit code 137 (SIGKILL)"),
        ("exited", "killed", None, "✗ killed"),
        ("exited", "interrupted", 130, "■ interrupted, exit code 130 (SIGINT)"),
        ("paused", "", None, "◐ paused"),
    ],
)
def test_each_end_has_a_sign_and_words(status: str, reason: str, code: int | None, wanted: str) -> None:
    container = Container(id="a" * 64, spec=ContainerSpec(), status=status, reason=reason, exit_code=code)
    mark, _, said = words.state(container)
    assert f"{mark} {said}" == wanted
    assert card.one_line(container)[0]["text/plain"].split(" · ")[0] == wanted


# One line


def test_one_line_is_one_line(ended: Container) -> None:
    ended.weakened, ended.stdout = [], ""
    data, _ = card.one_line(ended)
    assert data["text/plain"] == (
        "✗ out of memory, exit code 137 (SIGKILL) · 12s · peak 96MiB · 7 of 8 namespaces isolated · 3 changes"
    )
    assert Tags(data["text/html"]).text == data["text/plain"]


def test_one_line_is_not_silent_about_weaker_guarantees_and_truncation(ended: Container) -> None:
    text = card.one_line(ended)[0]["text/plain"]
    assert "weaker than asked: no swap accounting on this host" in text
    assert "stdout truncated" in text


def test_a_limit_that_was_hit_is_told(ended: Container) -> None:
    ended.usage.events.append((0.0471, "task limit hit (31×)"))
    assert "· task limit hit (31×)" in card.one_line(ended)[0]["text/plain"]
    assert ("task limit hit", "31×, first at 47.1ms") in card.facts(ended)


# Hostile text


def test_hostile_text_stays_text_everywhere(hostile: Container) -> None:
    pages = [card.live_html(hostile, 1.0), card.final_bundle(hostile)[0], card.one_line(hostile)[0]]
    sources = [page if isinstance(page, str) else page["text/html"] for page in pages]
    for source in sources:
        tags = Tags(source)
        assert "script" not in tags.names
        assert "<script>alert(1)</script>" in tags.text
        source.encode()
        assert "\x1b" not in source
        assert "\u202e" not in source


def test_no_terminal_sequence_reaches_the_plain_text(hostile: Container) -> None:
    for data in (card.final_bundle(hostile)[0], card.one_line(hostile)[0]):
        text = data["text/plain"]
        assert "\x1b" not in text
        assert r"\x1b[31m" in text
        text.encode()


# Tables


def test_namespace_table_marks_each_difference_with_a_sign() -> None:
    own = {"pid": 1, "network": 2, "uts": 3}
    html, text = namespace_table([("kernel", own), ("web", {"pid": 9, "network": 2}), ("<4711>", own)])
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert lines["namespace"] == ["kernel", "web", "<4711>"]
    assert lines["pid"] == ["1", "≠", "9", "=", "1"]
    assert lines["network"] == ["2", "=", "2", "=", "2"]
    assert lines["uts"] == ["3", "–", "=", "3"]
    assert lines["time"] == ["–", "–", "–"]
    tags = Tags(html)
    assert "<4711>" in tags.text
    assert f'<b style="color:{words.GREEN}">≠</b> 9' in html


def test_namespace_table_of_the_kernel_alone_needs_no_legend() -> None:
    html, text = namespace_table([("kernel", {"pid": 1})], explain=True)
    assert "≠" not in html + text
    assert "process IDs" in text
    assert len(text.splitlines()) == 1 + len(KINDS)


def test_namespace_table_needs_the_kernel() -> None:
    with pytest.raises(ValueError, match="rows"):
        namespace_table([])


def test_change_list_is_bounded() -> None:
    html, text = change_list([Change("A", f"/f{i}") for i in range(57)])
    assert text.splitlines()[0] == "A /f0"
    assert text.splitlines()[-1] == "… and 37 more"
    assert len(text.splitlines()) == 21
    assert "… and 37 more" in Tags(html).text
    assert "more" not in change_list([Change("A", f"/f{i}") for i in range(20)])[1]
    assert change_list([]) == ("", "")


def test_changes_that_were_not_all_collected_are_said_to_be_more(ended: Container) -> None:
    ended.changes = [Change("A", f"/f{i}") for i in range(30)]
    ended.changes_truncated = True
    assert "at least 30 changes" in card.one_line(ended)[0]["text/plain"]
    data, _ = card.final_bundle(ended)
    for source in (data["text/plain"], Tags(data["text/html"]).text):
        assert "30 added, and more that were not counted" in source
        assert "… and at least 10 more" in source


# The picture


def test_the_picture_is_transparent_and_described(ended: Container) -> None:
    image = pytest.importorskip("PIL.Image")
    png, alt = card.final_png(ended)
    with image.open(io.BytesIO(png)) as picture:
        assert picture.size == (900, 210)
        assert picture.mode == "RGBA"
        assert picture.getpixel((0, 0))[3] == 0
        colours = {pixel[:3] for _, pixel in picture.getcolors(maxcolors=10**6) if pixel[3] == 255}
    for drawn in (words.BLUE, words.RED, words.GREY):
        assert tuple(bytes.fromhex(drawn[1:])) in colours
    for fact in ("brave_turing", "out of memory at 11.9s", "Memory, highest sample 128MiB", "CPU, highest sample 50 %"):
        assert fact in alt


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_picture_of_next_to_nothing_can_be_drawn(ended: Container, number: int) -> None:
    ended.usage = Usage()
    ended.usage.extend({"time_s": float(i), "memory_bytes": MIB} for i in range(number))
    png, alt = card.final_png(ended)
    assert png.startswith(b"\x89PNG")
    assert "CPU, highest sample unknown" in alt


def test_the_picture_leaves_pyplot_alone() -> None:
    code = (
        "import sys; from jupyter_ns.frontend import card; from jupyter_ns.container import *; "
        "assert 'matplotlib' not in sys.modules; "
        "card.final_png(Container(id='a' * 64, spec=ContainerSpec())); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Moved limits


def test_a_moved_limit_is_marked_in_its_own_panel_and_in_words(ended: Container) -> None:
    before = sparklines(ended.usage, LIMITS).count('stroke-dasharray="2 2"')
    ended.usage.events.append((3.0, "limit moved: memory 64 MiB -> 128 MiB"))
    source = sparklines(ended.usage, LIMITS)
    assert (before, source.count('stroke-dasharray="2 2"')) == (0, 1)
    assert "memory 64 MiB -&gt; 128 MiB at 3s" in source
    png, alt = card.final_png(ended)
    assert png.startswith(b"\x89PNG") and "memory 64 MiB -> 128 MiB at 3s" in alt


def test_where_no_slider_can_be_driven_the_card_says_so(ended: Container) -> None:
    note = sliders.words(ended)
    assert "ipykernel 7.1" in note
    assert note in card.live_html(ended, 1.0, note)
    ended.spec = ContainerSpec()
    assert sliders.words(ended) == ""


def test_sliders_stand_at_their_limits_and_reach_round_them(ended: Container) -> None:
    memory, cpus, pids, said = sliders.sliders(ended)
    assert (memory.value, cpus.value, pids.value, said.value) == (128, 0.5, 64, "")
    assert memory.base**memory.min == pytest.approx(16) and memory.base**memory.max == pytest.approx(1024)
    assert cpus.min <= 0.05 and (pids.min, pids.max) == (1, 256)


def test_a_limit_that_went_to_several_files_has_one_row(ended: Container) -> None:
    container = ended
    container.limits = [
        LimitRecord("nano_cpus", 500_000_000, "100000", "cpu.cfs_period_us"),
        LimitRecord("nano_cpus", 500_000_000, "50000", "cpu.cfs_quota_us"),
        LimitRecord("device_read_bps", "/dev/sda 1", "8:0 1", "blkio.throttle.read_bps_device"),
        LimitRecord("device_read_bps", "/dev/sdb 1", "8:16 1", "blkio.throttle.read_bps_device"),
    ]
    text = card.final_bundle(container)[0]["text/plain"]
    assert [line for line in text.splitlines() if "CPUs " in line] == [
        line
        for line in text.splitlines()
        if "100000µs, 50000µs" in line and "cpu.cfs_period_us, cpu.cfs_quota_us" in line
    ]
    assert text.count("blkio.throttle.read_bps_device") == 2
