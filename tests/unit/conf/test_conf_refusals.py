"""A wrong configuration is refused whole, with the file, the group, the option, and what is allowed there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmuconf import conf
from pmuconf.errors import PmuconfError
from pmuconf.policy import CRITERIA
from tests.unit.unprivileged import as_nobody, open_folder

RULE = "[policy]\nrules = a\n[rule:a]\npmu = on\nflavor = x\n"


def refusal(*files: str, dirs: tuple[str, ...] = ()) -> PmuconfError:
    with pytest.raises(PmuconfError) as caught:
        conf.load(files, dirs)
    assert len(caught.value.message.splitlines()) == 1
    return caught.value


def refused(path: Path, text: str) -> str:
    """The message about a file with this text, without the file's name in front."""
    path.write_text(text)
    error = refusal(str(path))
    assert error.cause == "config-invalid"
    assert error.message.startswith(f"{path}: ")
    return error.message[len(f"{path}: ") :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pmuconf.conf"


# ---- groups, options, values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["polici", "Policy", "rule", "rules:a", "database", "policy "])
def test_an_unknown_group_with_or_without_options(path: Path, group: str) -> None:
    for text in (f"[{group}]\n", f"[{group}]\ndefault = off\n"):
        message = refused(path, text)
        assert message.startswith(f"[{group}]: is no group of pmuconf; allowed: ")
        for allowed in ("[policy]", "[libvirt]", "[change]", "[journal]", "[rule:NAME]"):
            assert allowed in message


@pytest.mark.parametrize(
    ("listen", "because"),
    [
        ("9754", "is not allowed; allowed: ADDRESS:PORT or [ADDRESS]:PORT, or nothing"),
        (":9754", "is not allowed"),
        ("localhost:9754", "is not allowed"),
        ("::1:9754", "is not allowed"),
        ("127.0.0.1:70000", "is not allowed"),
        ("0.0.0.0:9754", "is open to other machines, which requires listen_beyond_loopback = true"),
        ("[::]:9754", "is open to other machines"),
        ("192.0.2.1:9754", "is open to other machines"),
    ],
)
def test_an_address_to_listen_at(path: Path, listen: str, because: str) -> None:
    message = refused(path, f"[service]\nlisten = {listen}\n")
    assert message.startswith(f"[service] listen: {listen!r} {because}")


def test_options_in_the_default_group(path: Path) -> None:
    """Those of the oslo libraries go there in other services; nothing of pmuconf does."""
    assert refused(path, "[DEFAULT]\ndebug = true\n").startswith("[DEFAULT]: is no group of pmuconf; allowed: ")


@pytest.mark.parametrize(
    ("group", "option", "allowed"),
    [
        ("policy", "defaults", ["default", "rules", "nova_domains"]),
        ("policy", "pmu", ["default", "rules", "nova_domains"]),
        ("rule:a", "flavour", ["pmu", "reason", *CRITERIA, "mode"]),
        ("libvirt", "url", ["uri", "parallel", "max_xml_bytes"]),
        ("change", "max-changes", ["max_changes", "max_failures", "attempts"]),
        ("journal", "file", ["path", "retention_days"]),
    ],
)
def test_an_unknown_option(path: Path, group: str, option: str, allowed: list[str]) -> None:
    message = refused(path, f"[{group}]\n{option} = 1\n")
    assert message == f"[{group}] {option}: is no option; allowed: {', '.join(allowed)}"


@pytest.mark.parametrize(
    ("group", "option", "value", "allowed"),
    [
        ("policy", "default", "undecided", "off, on, keep"),
        ("policy", "default", "OFF", "off, on, keep"),
        ("policy", "default", "", "off, on, keep"),
        ("policy", "nova_domains", "ignore", "enforce, observe"),
        ("rule:a", "pmu", "default", "off, on, keep"),
        ("rule:a", "pmu", "", "off, on, keep"),
        ("libvirt", "parallel", "0", "1 to 32"),
        ("libvirt", "parallel", "33", "1 to 32"),
        ("libvirt", "parallel", "many", "1 to 32"),
        ("libvirt", "parallel", "", "1 to 32"),
        ("libvirt", "max_xml_bytes", "4095", "4096 or more"),
        ("libvirt", "max_xml_bytes", "", "4096 or more"),
        ("change", "max_changes", "-1", "0 or more"),
        ("change", "max_failures", "-1", "0 or more"),
        ("change", "max_changes", "1.5", "0 or more"),
        ("change", "max_changes", "", "0 or more"),
        ("change", "attempts", "0", "1 to 100"),
        ("change", "attempts", "101", "1 to 100"),
        ("change", "attempts", "", "1 to 100"),
    ],
)
def test_a_value_that_is_not_allowed(path: Path, group: str, option: str, value: str, allowed: str) -> None:
    message = refused(path, f"[{group}]\n{option} = {value}\n")
    assert message == f"[{group}] {option}: {value!r} is not allowed; allowed: {allowed}"


@pytest.mark.parametrize("value", ["0", "", "never"])
def test_a_retention_that_is_not_allowed(path: Path, value: str) -> None:
    message = refused(path, f"[journal]\nretention_days = {value}\n")
    assert message.startswith(f"[journal] retention_days: {value!r} is not allowed; allowed: 1 ")


@pytest.mark.parametrize(
    ("group", "option"), [("journal", "path"), ("service", "textfile"), ("service", "html"), ("service", "host_facts")]
)
def test_a_path_that_depends_on_the_folder_of_whoever_asks(path: Path, group: str, option: str) -> None:
    """Else the service, a cron job and a shell would each have a journal of their own."""
    message = refused(path, f"[{group}]\n{option} = pmu/file\n")
    assert message.startswith(f"[{group}] {option}: 'pmu/file' is relative")


def test_a_journal_without_a_place(path: Path) -> None:
    assert refused(path, "[journal]\npath =\n").startswith("[journal] path: ")


@pytest.mark.parametrize(
    ("group", "option", "value", "name"),
    [
        ("rule:a", "reason", "costs $nosuch", "nosuch"),
        ("rule:a", "flavor", "perf.$x", "x"),
        ("libvirt", "uri", "qemu+ssh://${host}/system", "host"),
        ("journal", "path", "$state_path/journal", "state_path"),
    ],
)
def test_a_reference_to_an_option_that_is_not_there(path: Path, group: str, option: str, value: str, name: str) -> None:
    """oslo.config puts the value of another option where $NAME stands."""
    message = refused(path, f"{RULE}[{group}]\n{option} = {value}\n")
    assert message.startswith(f"[{group}] {option}: ")
    assert name in message


@pytest.mark.parametrize(
    ("written", "meant"), [("costs $$nosuch", "costs $nosuch"), ("costs $5, or 5$", "costs $5, or 5$")]
)
def test_a_dollar_that_is_no_reference_stays(path: Path, written: str, meant: str) -> None:
    path.write_text(f"{RULE}reason = {written}\n")
    assert conf.load([str(path)]).policy.rules[0].reason == meant


# ---- rules ---------------------------------------------------------------------------------------------------------


def test_a_rule_that_is_listed_and_not_there(path: Path) -> None:
    message = refused(path, f"{RULE}[rule:c]\npmu = on\nflavor = z\n".replace("rules = a", "rules = a, b"))
    assert message.startswith("[policy] rules: lists b, but there is no group [rule:b]; there is: [rule:a], [rule:c]")


def test_a_rule_that_is_listed_twice(path: Path) -> None:
    assert refused(path, RULE.replace("rules = a", "rules = a, a")) == "[policy] rules: lists a twice"


@pytest.mark.parametrize(
    "name", ["default", "out-of-scope", "no-arch", "written-on", "hidden-choice", "hw:pmu", "hw_pmu"]
)
def test_a_rule_named_as_a_step_of_the_decision(path: Path, name: str) -> None:
    message = refused(path, f"[policy]\nrules = {name}\n[rule:{name}]\npmu = on\nflavor = x\n")
    assert message.startswith(f"[policy] rules: '{name}' is no name for a rule")


@pytest.mark.parametrize("name", ["-a", "a b", "ä", "a/b", "=x", "a\x1b"])
def test_a_rule_with_a_name_that_is_none(path: Path, name: str) -> None:
    message = refused(path, f"[policy]\nrules = {name}\n[rule:{name}]\npmu = on\nflavor = x\n")
    assert message.startswith("[policy] rules: ")
    assert "letters, digits, _ . and - are allowed" in message


def test_a_gap_in_the_list_of_rules(path: Path) -> None:
    assert refused(path, RULE.replace("rules = a", "rules = a,,b")).startswith("[policy] rules: '' is no name")


def test_a_rule_without_pmu(path: Path) -> None:
    message = refused(path, "[policy]\nrules = a\n[rule:a]\nflavor = x\n")
    assert message == "[rule:a] pmu: is missing; allowed: off, on, keep"


@pytest.mark.parametrize("more", ["", "reason = none\n", "flavor =\n", "domain =\nproject =\n"])
def test_a_rule_that_asks_nothing(path: Path, more: str) -> None:
    message = refused(path, f"[policy]\nrules = a\n[rule:a]\npmu = on\n{more}")
    assert message.startswith("[rule:a]: asks nothing")
    for criterion in CRITERIA:
        assert criterion in message


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("extra_spec", "hw:pmu", "hw:pmu"),
        ("extra_spec", "hw:pmu=true", "hw:pmu"),
        ("extra_spec", "hw:a=b, hw:pmu=*", "hw:pmu"),
        ("image_property", "hw_pmu", "hw_pmu"),
        ("image_property", "hw_pmu=false", "hw_pmu"),
    ],
)
def test_a_rule_that_reads_the_explicit_choice(path: Path, option: str, value: str, key: str) -> None:
    message = refused(path, f"[policy]\nrules = a\n[rule:a]\npmu = on\n{option} = {value}\n")
    assert message.startswith(f"[rule:a] {option}: reads {key}, but an explicit {key} decides before any rule")


@pytest.mark.parametrize("option", ["extra_spec", "image_property", "attribute"])
@pytest.mark.parametrize("value", ["=x", "a,,b", "a, =", "="])
def test_a_value_without_a_key(path: Path, option: str, value: str) -> None:
    message = refused(path, f"[policy]\nrules = a\n[rule:a]\npmu = on\n{option} = {value}\n")
    assert message.startswith(f"[rule:a] {option}: has a value without a key; allowed: KEY or KEY=GLOB")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("arch", "aarch64", "i686, x86_64"),
        ("arch", "x86_64, amd64", "i686, x86_64"),
        ("arch", "X86_64", "i686, x86_64"),
        ("arch", "*", "i686, x86_64"),
        ("virt_type", "xen", "kvm, qemu"),
        ("virt_type", "kvm*", "kvm, qemu"),
    ],
)
def test_a_word_that_never_matches(path: Path, option: str, value: str, allowed: str) -> None:
    message = refused(path, f"[policy]\nrules = a\n[rule:a]\npmu = on\n{option} = {value}\n")
    wrong = value.rpartition(", ")[2]
    assert message == f"[rule:a] {option}: {wrong!r} never matches; allowed: {allowed}"


@pytest.mark.parametrize(
    ("value", "because"),
    [
        ('"a, b"', "a comma in a name is written \\,"),
        ("'a, b'", "a comma in a name is written \\,"),
        ('"a\\, b, c"', "a comma in a name is written \\,"),
        ('"a, b", c', "quotes mean nothing here"),
        ("c, 'a'", "quotes mean nothing here"),
        ("a\\", "its last backslash has nothing behind it"),
        ("a\\ , b", "its last backslash has nothing behind it"),
        ("a\\,", "its last backslash has nothing behind it"),
    ],
)
@pytest.mark.parametrize("option", ["domain", "flavor", "project"])
def test_a_list_that_would_not_mean_what_it_seems_to(path: Path, option: str, value: str, because: str) -> None:
    message = refused(path, f"[policy]\nrules = a\n[rule:a]\npmu = on\n{option} = {value}\n")
    assert f"[rule:a] {option}" in message
    assert because in message


def test_a_rule_that_can_never_decide(path: Path) -> None:
    later = "[rule:b]\npmu = off\nflavor = x\nproject = p\n"
    message = refused(path, RULE.replace("rules = a", "rules = a, b") + later)
    assert message.startswith("[rule:b]: can never decide: rule a stands before it")
    assert "[policy] rules" in message


def test_a_rule_that_seems_shadowed_and_is_not(path: Path) -> None:
    """The id of a project is no glob; the one rule asks for a project of the name *."""
    path.write_text("[policy]\nrules = a, b\n[rule:a]\npmu = on\nproject = *\n[rule:b]\npmu = off\nproject = c0ffee\n")
    assert [rule.name for rule in conf.load([str(path)]).policy.rules] == ["a", "b"]


def test_two_rules_whose_names_differ_in_case_alone(path: Path) -> None:
    """To oslo.config they are one group: the options of both would make up one rule that nobody wrote."""
    other = "[rule:A]\npmu = off\ndomain = y\n"
    for listed in ("a", "A", "a, A"):
        message = refused(path, RULE.replace("rules = a", f"rules = {listed}") + other)
        assert "[rule:A]" in message
        assert "[rule:a]" in message


def test_of_several_files_the_one_at_fault_is_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.conf", tmp_path / "bad.conf"
    good.write_text(RULE)
    for text, where in (
        ("[policy]\ndefault = maybe\n", "[policy] default: "),
        ("[rule:a]\narch = vax\n", "[rule:a] arch: "),
        ("[rule:a]\nflavor =\n", "[rule:a]: "),
        ("[nonsense]\n", "[nonsense]: "),
    ):
        bad.write_text(text)
        for files in ([good, bad], [bad, good]):
            if where == "[rule:a]: " and files[1] == good:
                continue  # there the good file has the last word
            assert refusal(*map(str, files)).message.startswith(f"{bad}: {where}")


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[policy\n", 1),
        ("default = off\n", 1),
        ("[policy]\n  more\n", 2),
        ("[policy]\ndefault\n", 2),
        ("[]\n", 1),
        ("[policy]\n\n= x\n", 3),
        ("\ufeff[policy]\n", 1),
    ],
)
def test_a_file_that_cannot_be_parsed(path: Path, text: str, line: int) -> None:
    path.write_text(text)
    error = refusal(str(path))
    assert error.cause == "config-invalid"
    assert error.message.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize("data", [b"[policy]\n# caf\xe9\n", "[policy]\n".encode("utf-16"), b"\x80"])
def test_a_file_that_is_not_utf_8(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    error = refusal(str(path))
    assert (error.cause, error.message) == ("config-invalid", f"{path}: is not UTF-8 text")


def test_a_file_that_is_not_there(path: Path) -> None:
    error = refusal(str(path))
    assert error.cause == "config-missing"
    assert error.message.startswith(f"{path}: ")


def test_a_folder_that_is_not_there(path: Path) -> None:
    error = refusal(dirs=(str(path),))
    assert error.cause == "config-missing"
    assert error.message.startswith(f"{path}: ")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    error = refusal(str(tmp_path))
    assert error.cause == "config-unreadable"
    assert error.message == f"{tmp_path}: Is a directory"


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_file_instead_of_a_folder(path: Path, mode: int) -> None:
    """Else what it says would silently not count."""
    path.write_text("[policy]\ndefault = on\n")
    path.chmod(mode)
    error = refusal(dirs=(str(path),))
    assert error.message.startswith(f"{path}: ")
    assert "directory" in error.message


def test_a_link_that_leads_nowhere_in_a_folder(tmp_path: Path) -> None:
    link = tmp_path / "site.conf"
    link.symlink_to(tmp_path / "nowhere")
    error = refusal(dirs=(str(tmp_path),))
    assert error.cause == "config-unreadable"
    assert error.message.startswith(f"{link}: ")


def test_a_file_or_a_folder_that_we_may_not_read() -> None:
    with open_folder() as folder:
        secret, closed = folder / "secret.conf", folder / "closed.d"
        secret.write_text("[policy]\ndefault = on\n")
        secret.chmod(0o000)
        closed.mkdir(mode=0o000)
        for files, dirs, named in (
            ([str(secret)], [], secret),
            ([], [str(closed)], closed),
            ([], [str(folder)], secret),
        ):
            said = as_nobody(lambda files=files, dirs=dirs: conf.load(files, dirs))  # type: ignore[misc]
            assert isinstance(said, PmuconfError)
            assert said.cause == "config-unreadable"
            assert said.message.startswith(f"{named}: ")


_PIECES = (
    *("[policy]\n", "[rule:a]\n", "[DEFAULT]\n", "[change]\n", "rules = ", "pmu = on", "flavor = ", "max_changes = "),
    *("a", ",", "\n", "*", " ", "=", "[", "]", "$", "$x", "'", '"', "hw:pmu", "\x00", "é", "#", ";", "9" * 400),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=80) | st.lists(st.sampled_from(_PIECES), max_size=14).map(lambda parts: "".join(parts).encode())
)
def test_any_file_is_a_configuration_or_is_refused_by_name(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        chosen = conf.load([str(path)])
    except PmuconfError as refused:
        error = refused
    else:
        assert all(isinstance(number, int) for number in (chosen.max_changes, chosen.attempts, chosen.parallel))
        return
    assert error.cause == "config-invalid"
    assert error.message.startswith(f"{path}:")
