"""Where the settings of `raftkv serve` come from.

    --heartbeat-interval 100             the command line (wins)
    RAFTKV_HEARTBEAT_INTERVAL=100        the environment
    heartbeat-interval: 100              the YAML file named by --config-file

A configuration file makes every other flag and variable ignored, as in etcd; a
warning names what was ignored. Its keys are the flags' names; the TLS settings
stand where etcd has them, under `client-transport-security` and
`peer-transport-security`. A key that etcd has and raftkv has not is ignored
with a warning if it only tunes, and refused if leaving it out would weaken what
the operator asked for; any other unknown key is refused as a likely slip. An
unknown variable may be anybody's (a container platform's, say), so it is only
warned of, unless it is of the kind that would weaken.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Final

from raftkv.cli.flags import ENV_PREFIX, FLAG_NAMES, FLAGS, build
from raftkv.config import ServerConfig, warnings
from raftkv.errors import ConfigError

# Section of etcd's YAML file -> (prefix of the flags there, its keys).
TRANSPORT_SECTIONS: Final = {
    "client-transport-security": "",
    "peer-transport-security": "peer-",
}
TRANSPORT_KEYS: Final = ("cert-file", "key-file", "trusted-ca-file", "client-cert-auth")
# Keys of etcd's sample file that only tune what raftkv does not have.
TUNING_KEYS: Final = frozenset(
    {
        "wal-dir",
        "max-snapshots",
        "max-wals",
        "logger",
        "proxy",
        "proxy-failure-wait",
        "proxy-refresh-interval",
        "proxy-dial-timeout",
        "proxy-write-timeout",
        "proxy-read-timeout",
        "pre-vote",
        "enable-v2",
        "discovery-fallback",
        "debug",
    }
)
# Keys of etcd whose loss an operator must hear of, unless they are empty or false.
NOT_OFFERED_KEYS: Final = frozenset(
    {
        "auto-tls",
        "peer-auto-tls",
        "client-crl-file",
        "peer-crl-file",
        "crl-file",
        "allowed-cn",
        "allowed-hostname",
        "client-cert-allowed-hostname",
        "peer-cert-allowed-cn",
        "peer-cert-allowed-hostname",
        "tls-min-version",
        "tls-max-version",
        "auth-token",
        "discovery",
        "discovery-proxy",
        "discovery-srv",
        "cipher-suites",
    }
)
_OFF: Final = ("", "false", "0", "f")  # what leaves such a setting as it is


def load(typed: Mapping[str, str], environ: Mapping[str, str]) -> tuple[ServerConfig, list[str]]:
    """The configuration and the warnings to log, one sentence each.

    typed: raw text of the flags on the command line, by flag name.
    environ: the process's environment. Errors: ConfigError.
    """
    _refuse_not_offered(environ)
    by_env = {flag.env: flag.name for flag in FLAGS}
    from_env = {by_env[key]: text for key, text in environ.items() if key in by_env and text}
    notes = [
        f"unrecognized environment variable {key}"
        for key in sorted(environ)
        if key.startswith(ENV_PREFIX) and key not in by_env
    ]
    path = typed.get("config-file") or from_env.get("config-file")
    if path:
        ignored = [f"--{name}" for name in typed if name != "config-file"]
        ignored += [_variable(name) for name in from_env if name != "config-file"]
        if ignored:
            listed = ", ".join(sorted(ignored))
            notes.append(f"the configuration file {path} makes these ignored: {listed}")
        given, remarks = read_file(path)
        notes += remarks
    else:
        given = {**from_env, **typed}
    config = build(given)
    return config, notes + warnings(config)


def _refuse_not_offered(environ: Mapping[str, str]) -> None:
    for name in sorted(NOT_OFFERED_KEYS):
        key = _variable(name)
        if environ.get(key, "").strip().lower() not in _OFF:
            raise ConfigError(f"{key}: {name} is not offered by raftkv; remove the variable")


def _variable(name: str) -> str:
    """The environment variable of a flag."""
    return ENV_PREFIX + name.upper().replace("-", "_")


def read_file(path: str) -> tuple[dict[str, str], list[str]]:
    """(raw text by flag name, remarks) of a YAML configuration file. Errors: ConfigError."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"--config-file: cannot read {path!r}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config-file: {path!r} is not YAML: {reason}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"--config-file: {path!r} must hold `flag: value` lines")
    given: dict[str, str] = {}
    remarks: list[str] = []
    for key, value in tree.items():
        if key in TRANSPORT_SECTIONS:
            _read_section(path, key, value, given)
        elif key in FLAG_NAMES and key != "config-file":
            if value is not None:
                given[key] = _text(path, key, value)
        elif key in TUNING_KEYS:
            remarks.append(f"{path}: {key} is not offered and has no effect")
        else:
            _refuse_unless_empty(path, str(key), value)
    return given, remarks


def _read_section(path: str, section: str, value: Any, given: dict[str, str]) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise ConfigError(f"--config-file: {path!r}: {section} must hold `key: value` lines")
    for key, inner in value.items():
        if key not in TRANSPORT_KEYS:
            _refuse_unless_empty(path, str(key), inner, section)
        elif inner is not None:
            name = TRANSPORT_SECTIONS[section] + key
            given[name] = _text(path, f"{section}.{key}", inner)


def _text(path: str, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"--config-file: {path!r}: {key} must be a plain value")


def _refuse_unless_empty(path: str, key: str, value: Any, section: str = "") -> None:
    if key in NOT_OFFERED_KEYS:
        if not value:
            return
        raise ConfigError(f"--config-file: {path!r}: {key} is not offered by raftkv; remove it")
    known = TRANSPORT_KEYS if section else (*FLAG_NAMES, *TRANSPORT_SECTIONS)
    near = difflib.get_close_matches(key, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    where = f"{section}.{key}" if section else key
    raise ConfigError(f"--config-file: {path!r}: unknown key {where}{hint}")
