"""The credential in Secrets Manager: store it, describe it without showing it, and try it at the provider."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from builder import aws
from builder.config import ProviderChoice
from builder.errors import BuilderError, ConfigError
from builder.presets import SecretShape
from builder.standin.sample import derive_ses_password

_LOG_IN_SECONDS = 20


@dataclass(frozen=True)
class Described:
    """What may be said of a secret: never a value of it."""

    name: str
    region: str
    arn: str
    version: str
    since: str
    shape: str
    fields: tuple[str, ...]

    def to_json_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return asdict(self)


def find_shape(shapes: Sequence[SecretShape], secret: Mapping[str, str], *, source: str) -> SecretShape:
    """Return the first shape whose fields the secret has, as the agent does.

    Errors: ConfigError with the fields of each shape and those that are there; no value is repeated.
    """
    for shape in shapes:
        if all(secret.get(field) for field in shape.fields):
            return shape
    wanted = " or ".join("{" + ", ".join(f'"{field}"' for field in shape.fields) + "}" for shape in shapes)
    there = ", ".join(f"`{field}`" for field in secret) or "none"
    raise ConfigError(source, [f"the fields are {there}, expected {wanted}"])


def parse(text: str, *, source: str, hint: str | None = None) -> dict[str, str]:
    """Read the JSON object of a secret. Errors: ConfigError that repeats nothing of it."""
    try:
        raw = json.loads(text.removeprefix("\ufeff"))  # Windows writes a byte order mark
    except ValueError:
        raw = None
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise ConfigError(source, ["this is not a JSON object whose values are text"], hint=hint)
    return raw


def put(
    config: ProviderChoice, secret: Mapping[str, str], *, region: str, endpoint: str | None = None
) -> str:
    """Store a secret under the configuration's name, as its new current version; return the version's id.

    The version before stays as AWSPREVIOUS. Errors: ConfigError for fields that no shape has; AwsError.
    """
    name = config.secret_name
    find_shape(config.provider.secret_shapes, secret, source=f"secret `{name}`")
    client = aws.client("secretsmanager", region=region, endpoint=endpoint)
    with aws.calling(f"store the secret `{name}` in `{region}`"):
        text = json.dumps(dict(secret))
        try:
            return client.create_secret(Name=name, SecretString=text)["VersionId"]
        except client.exceptions.ResourceExistsException:
            return client.put_secret_value(SecretId=name, SecretString=text)["VersionId"]


def show(config: ProviderChoice, *, region: str, endpoint: str | None = None) -> Described:
    """Describe the current version of the configuration's secret. Errors: AwsError, ConfigError."""
    name = config.secret_name
    client = aws.client("secretsmanager", region=region, endpoint=endpoint)
    with aws.calling(f"read the secret `{name}` in `{region}`"):
        answer = client.get_secret_value(SecretId=name)
    source = f"secret `{name}`"
    secret = parse(answer.get("SecretString", ""), source=source)
    shape = find_shape(config.provider.secret_shapes, secret, source=source)
    return Described(
        name=answer["Name"],
        region=region,
        arn=answer["ARN"],
        version=answer["VersionId"],
        since=f"{answer['CreatedDate']:%Y-%m-%d %H:%M %Z}".strip(),
        shape=shape.name,
        fields=tuple(secret),
    )


def check(
    config: ProviderChoice, *, region: str, endpoint: str | None = None, ca_pem: str | None = None
) -> str:
    """Fetch the secret and log in to the provider with it, over verified TLS; return what happened.

    No mail is sent. `ca_pem` is trusted in place of the system's authorities. Errors: BuilderError with the
    provider's reply.
    """
    name = config.secret_name
    client = aws.client("secretsmanager", region=region, endpoint=endpoint)
    with aws.calling(f"read the secret `{name}` in `{region}`"):
        text = client.get_secret_value(SecretId=name).get("SecretString", "")
    secret = parse(text, source=f"secret `{name}`")
    user, password = _credential(config, secret)
    host, port = config.upstream_host, config.upstream_port
    try:
        with _connect(config, _trust(ca_pem)) as session:
            session.login(user, password)
            return (
                f"`{host}` port {port} accepted the secret `{name}` (shape `{_shape(config, secret).name}`)"
            )
    except smtplib.SMTPAuthenticationError as error:
        reply = (
            error.smtp_error.decode(errors="replace")
            if isinstance(error.smtp_error, bytes)
            else error.smtp_error
        )
        raise BuilderError(
            f"`{host}` refused the secret `{name}`: {error.smtp_code} {reply}",
            hint=f"`builder presets {config.preset}` says how to get the credential",
        ) from None
    except UnicodeEncodeError:
        raise BuilderError(
            f"The secret `{name}` has characters outside ASCII, which SMTP's log-in cannot carry",
            hint=f"`builder presets {config.preset}` says how to get the credential",
        ) from None
    except (OSError, smtplib.SMTPException) as error:
        raise BuilderError(
            f"`{host}` port {port} could not be asked: {error}",
            hint="Check the network; providers also listen on other ports, see `builder presets`",
        ) from None


def _trust(ca_pem: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca_pem)
    except ssl.SSLError as error:
        raise BuilderError(
            f"The certificates to trust cannot be used: {error.reason or error}",
            hint="Give a file of certificates in PEM: each between `BEGIN CERTIFICATE` and `END CERTIFICATE`",
        ) from error


def _connect(config: ProviderChoice, context: ssl.SSLContext) -> smtplib.SMTP:
    """Open a session with TLS, its certificate verified against the provider's name."""
    host, port = config.upstream_host, config.upstream_port
    if config.upstream_tls == "implicit":
        return smtplib.SMTP_SSL(host, port, timeout=_LOG_IN_SECONDS, context=context)
    session = smtplib.SMTP(host, port, timeout=_LOG_IN_SECONDS)
    try:
        session.starttls(context=context)
    except BaseException:
        session.close()
        raise
    return session


def _shape(config: ProviderChoice, secret: Mapping[str, str]) -> SecretShape:
    return find_shape(config.provider.secret_shapes, secret, source=f"secret `{config.secret_name}`")


def _credential(config: ProviderChoice, secret: Mapping[str, str]) -> tuple[str, str]:
    """Return user name and password as the provider gets them."""
    shape = _shape(config, secret)
    if shape.mechanism != "password":
        raise BuilderError(
            f"The secret `{config.secret_name}` is for OAuth 2.0 (`{shape.name}`), which only a relay tries",
            hint="See `relayctl doctor` in a running relay",
        )
    password = shape.password.format_map(secret)
    if shape.derive == "ses_smtp_v4":
        password = derive_ses_password(password, config.region or "us-east-1")
    return shape.username.format_map(secret), password
