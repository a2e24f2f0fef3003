"""What is pure about networks: addresses, messages, options."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_ns.errors import UsageError
from jupyter_ns.frontend.magics import parse_words
from jupyter_ns.interchange.docker_command import docker_command
from jupyter_ns.networks import messages, wiring
from jupyter_ns.networks.data import Addresses, Endpoint, Network, free_subnet, parse_subnet
from jupyter_ns.option_network import parse_rate
from jupyter_ns.spec import ContainerSpec, Limits

LAB = Network(name="lab", id="a" * 64, subnet=IPv4Network("10.9.0.0/29"), gateway=IPv4Address("10.9.0.1"))
ENDPOINT = Endpoint(
    network="lab",
    network_id="a" * 64,
    bridge="br-aaaaaaaaaaaa",
    bridge_address="10.9.0.1/29",
    interface="eth0",
    peer="veth1234567",
    address="10.9.0.2/29",
    gateway="10.9.0.1",
    mac="02:42:0a:09:00:02",
)


def spec(line: str) -> ContainerSpec:
    return parse_words([*line.split(), "true"]).spec


# ---- addresses ----


@given(st.lists(st.sampled_from(["take", "give"]), max_size=30))
def test_no_address_is_given_out_twice(actions: list[str]) -> None:
    addresses, held = Addresses(LAB), []
    for action in actions:
        if action == "give" and held:
            addresses.give_back(str(held.pop()))
        elif len(held) < 5:
            held.append(addresses.take("x"))
        else:
            with pytest.raises(UsageError, match="no available"):
                addresses.take("x")
        assert len(set(held)) == len(held)
        assert not {LAB.gateway, LAB.subnet[0], LAB.subnet[-1]} & set(held)


def test_pools_follow_each_other_and_end() -> None:
    taken: list[IPv4Network] = []
    with pytest.raises(UsageError, match="--subnet"):
        while True:
            taken.append(free_subnet(taken))
    assert [str(n) for n in (taken[0], taken[14], taken[15], taken[-1])] == [
        "172.17.0.0/16", "172.31.0.0/16", "192.168.0.0/20", "192.168.240.0/20",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.1/24", "10.0.0.0/31", "0.0.0.0/0", "fd00::/64", "x"])
def test_what_is_no_subnet(text: str) -> None:
    with pytest.raises(ValueError, match="expected an IPv4 network"):
        parse_subnet(text)


# ---- messages ----


@given(st.integers(1, 200), st.binary(max_size=40))
def test_attributes_come_back(kind: int, data: bytes) -> None:
    raw = messages.attribute(kind, data) + messages.attribute(kind + 1, b"next")
    assert len(raw) % 4 == 0
    assert messages.attributes(raw) == {kind: data, kind + 1: b"next"}


def test_a_message_has_its_length_and_asks_for_an_answer() -> None:
    raw = messages.link_up("eth0", 2).pack(7)
    length, kind, flags, sequence, _ = messages.HEADER.unpack_from(raw)
    assert (length, kind, flags, sequence) == (len(raw), messages.NEWLINK, messages.REQUEST | messages.ACK, 7)
    assert list(messages.split(raw + raw)) == [(messages.NEWLINK, 7, raw[16:])] * 2


def test_errors_are_read() -> None:
    assert messages.error_of(struct.pack("=i", -17)) == 17
    assert messages.error_of(struct.pack("=i", 0)) == 0


@pytest.mark.parametrize("rate_bps", [125, 125_000, 1_250_000, 2**32 - 1, 5 * 10**9])
def test_a_bucket_reads_back_as_it_was_made(rate_bps: int) -> None:
    body = messages.token_bucket("eth0", 3, rate_bps).body
    assert messages.queue(body, 3) == ("tbf", {"rate_bps": rate_bps})
    assert messages.queue(body, 4) is None


def test_an_emulation_reads_back_as_it_was_made() -> None:
    kind, values = messages.queue(messages.emulate("eth0", 3, 50_000, 12.5).body, 3) or ("", {})
    assert (kind, values["delay_us"]) == ("netem", 50_000)
    assert values["loss_percent"] == pytest.approx(12.5, abs=1e-6)


def test_a_rate_below_an_emulation_is_its_child() -> None:
    both = list(wiring.queue_steps("eth0", 3, Limits(net_rate_bps=1000, net_delay_us=5), inner=True))
    assert ["netem" in m.text for m in both] == [True, False]
    parent = struct.unpack_from("=I", both[1].body, 12)[0]
    assert parent == 0x10001
    (only,) = wiring.queue_steps("veth", 3, Limits(net_rate_bps=1000, net_delay_us=5), inner=False)
    assert struct.unpack_from("=I", only.body, 12)[0] == messages.TC_ROOT


def test_a_plan_lists_every_message_once() -> None:
    lines = wiring.describe(ENDPOINT, Limits())
    assert [line.partition(": ")[2].partition("(")[0] for line in lines] == [
        "RTM_NEWLINK", "RTM_NEWLINK", "RTM_NEWADDR", "RTM_NEWLINK", "RTM_NEWLINK", "RTM_NEWLINK", "RTM_NEWNEIGH",
        "RTM_NEWROUTE",
    ]  # fmt: skip


# ---- options ----


def test_a_network_may_come_with_everything_about_it() -> None:
    one = spec("--network name=lab,alias=db,alias=store,ip=10.9.0.3,mac-address=02-42-00-00-00-01")
    assert (one.network, one.network_aliases, one.ip, one.mac_address) == (
        "lab", ("db", "store"), "10.9.0.3", "02:42:00:00:00:01",
    )  # fmt: skip
    assert one == spec("--net lab --net-alias db --network-alias store --ip 10.9.0.3 --mac-address 02:42:00:00:00:01")


def test_what_needs_a_network_gets_dockers_default_one_and_nothing_else_does() -> None:
    for line in ("-p 80", "--net-rate 1mbit", "-P", "--network-alias x"):
        assert spec(line).network == "bridge"
    for line in ("", "--expose 80", "--dns 10.0.0.1", "--add-host a:10.0.0.1", "-P=false"):
        assert spec(line).network == "none"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("127.0.0.1", 0, 0, 80, "tcp")]),
        ("8080:80/udp", [("127.0.0.1", 8080, 0, 80, "udp")]),
        ("0.0.0.0:8080:80", [("0.0.0.0", 8080, 0, 80, "tcp")]),
        ("127.0.0.1::80", [("127.0.0.1", 0, 0, 80, "tcp")]),
        ("[::1]:8080:80", [("::1", 8080, 0, 80, "tcp")]),
        ("8000-8010:80", [("127.0.0.1", 8000, 8010, 80, "tcp")]),
        ("8000-8001:80-81", [("127.0.0.1", 8000, 0, 80, "tcp"), ("127.0.0.1", 8001, 0, 81, "tcp")]),
    ],
)
def test_ports(text: str, expected: list[tuple[object, ...]]) -> None:
    assert [(p.ip, p.host, p.last, p.container, p.protocol) for p in spec(f"-p {text}").ports] == expected


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [("10mbit", 1_250_000), ("1gbit", 125_000_000), ("8kibit", 1024), ("1kbps", 1000), ("1MBit", 125_000),
     ("2m", 2 << 20), ("1000", 1000), ("0", None)],
)  # fmt: skip
def test_rates(text: str, rate_bps: int | None) -> None:
    assert parse_rate(text) == rate_bps


def test_a_spec_with_a_network_crosses_the_stream_and_becomes_a_docker_line() -> None:
    line = "--network lab --network-alias db --ip 10.9.0.3 -p 127.0.0.1:8080:80 --expose 53/udp --add-host a:10.0.0.1"
    one = spec(f"{line} --net-loss 1.5%")
    assert ContainerSpec.from_dict(one.to_dict()) == one
    command = docker_command(one)
    assert (
        "--network lab --publish 127.0.0.1:8080:80/tcp --expose 53/udp --network-alias db --ip 10.9.0.3" in command.line
    )
    assert "--add-host a:10.0.0.1" in command.line
    assert any("--net-rate" in note for note in command.notes)
