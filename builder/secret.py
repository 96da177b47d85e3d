"""A relay's secrets in Secrets Manager: store one, describe it without showing it, try a credential."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from builder import aws
from builder.config import ProviderChoice, arn_region
from builder.errors import BuilderError
from builder.secret_kinds import Credential, Kind
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


def put(kind: Kind, secret: Mapping[str, Any], *, region: str, endpoint: str | None = None) -> str:
    """Store a secret under its configured name, as its new current version; return the version's id.

    The version before stays as AWSPREVIOUS. A secret that is not there is made, but none by its ARN.
    Errors: ConfigError for what a relay would not take; AwsError.
    """
    kind.shape_of(secret, source=f"secret `{kind.name}`")
    client = aws.client("secretsmanager", region=region, endpoint=endpoint)
    with aws.calling(f"store the secret `{kind.name}` in `{region}`"):
        text = json.dumps(dict(secret))
        # In this order: who only rotates a secret may not create any.
        try:
            return client.put_secret_value(SecretId=kind.name, SecretString=text)["VersionId"]
        except client.exceptions.ResourceNotFoundException:
            if arn_region(kind.name):
                raise BuilderError(
                    f"There is no secret `{kind.name}` in `{region}`",
                    hint="Correct the ARN, or create the secret by its name first: AWS makes the ARN then",
                ) from None
            return client.create_secret(Name=kind.name, SecretString=text)["VersionId"]


def show(kind: Kind, *, region: str, endpoint: str | None = None) -> Described:
    """Describe the current version of one of the configuration's secrets. Errors: AwsError, ConfigError."""
    client = aws.client("secretsmanager", region=region, endpoint=endpoint)
    with aws.calling(f"read the secret `{kind.name}` in `{region}`"):
        answer = client.get_secret_value(SecretId=kind.name)
    source = f"secret `{kind.name}`"
    secret = kind.parse(answer.get("SecretString", ""), source=source)
    return Described(
        name=answer["Name"],
        region=region,
        arn=answer["ARN"],
        version=answer["VersionId"],
        since=f"{answer['CreatedDate']:%Y-%m-%d %H:%M %Z}".strip(),
        shape=kind.shape_of(secret, source=source),
        fields=kind.fields_of(secret),
    )


def check(kind: Kind, *, region: str, endpoint: str | None = None, ca_pem: str | None = None) -> str:
    """Fetch the secret and log in to the provider with it, over verified TLS; return what happened.

    No mail is sent. `ca_pem` is trusted in place of the system's authorities. Errors: BuilderError with the
    provider's reply, or for a secret that is not a provider's.
    """
    if not isinstance(kind, Credential):
        raise BuilderError(
            f"The secret `{kind.name}` holds {kind.what}; only a provider's credential can be tried",
            hint=f"`builder secret show {kind.name}` checks and describes it",
        )
    config, name = kind.choice, kind.name
    client = aws.client("secretsmanager", region=region, endpoint=endpoint)
    with aws.calling(f"read the secret `{name}` in `{region}`"):
        text = client.get_secret_value(SecretId=name).get("SecretString", "")
    source = f"secret `{name}`"
    shape, user, password = _login(kind, kind.parse(text, source=source), source=source)
    host, port = config.upstream_host, config.upstream_port
    try:
        with _connect(config, _trust(ca_pem)) as session:
            session.login(user, password)
            return f"`{host}` port {port} accepted the secret `{name}` (shape `{shape}`)"
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


def _login(kind: Credential, document: Mapping[str, Any], *, source: str) -> tuple[str, str, str]:
    """Return the name of the shape, and user name and password as the provider gets them."""
    shape, values = kind.read(document, source=source)
    if shape.mechanism != "password":
        raise BuilderError(
            f"The secret `{kind.name}` is for OAuth 2.0 (`{shape.name}`), which only a relay tries",
            hint="See `relayctl doctor` in a running relay",
        )
    password = shape.password.format_map(values)
    if shape.derive == "ses_smtp_v4":
        password = derive_ses_password(password, kind.choice.region or "us-east-1")
    return shape.name, shape.username.format_map(values), password
