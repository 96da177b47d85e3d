"""Check of the port for clients that log in; it is tried from inside of the guest."""

from __future__ import annotations

import json
import uuid

from builder.config import RelayConfig
from builder.verify.check import check
from builder.verify.relay import Relay, require
from builder.verify.world import SUBMISSION_USER

_OPEN_SECONDS = 60


def _is_asked_for(config: RelayConfig) -> bool:
    return config.submission is not None


@check("submission", applies=_is_asked_for)
def submission(relay: Relay) -> str:
    """Prove that the submission port wants TLS and a login, and relays for who has both."""
    port = relay.config.submission.port if relay.config.submission else 0
    relay.wait(lambda: relay.has_listener(port), f"listener on port {port}", _OPEN_SECONDS, relay.ready_text)
    subject = f"builder probe {uuid.uuid4().hex}"
    sender, recipient = relay.addresses
    asked = {
        "port": port, "user": SUBMISSION_USER, "password": relay.logins.submission_password,
        "sender": sender, "recipient": recipient, "subject": subject,
    }  # fmt: skip
    # The password goes through standard input: arguments can be read by every process.
    answer = relay.guest.run(f"python3 -c '{_SCRIPT}'", stdin=json.dumps(asked), timeout_seconds=120).stdout
    seen = json.loads(answer)
    require(not seen["login_in_clear"], "it offers AUTH before TLS")
    require(seen["before_login"] >= 500, f"without a login a recipient got {seen['before_login']}")
    require(seen["wrong_password"] == 535, f"a wrong password got {seen['wrong_password']}, expected 535")
    require(seen["right_password"] == 235, f"the right password got {seen['right_password']}, expected 235")
    message = relay.wait_delivered([subject])[0]
    return f"port {port}: no AUTH before TLS; without login {seen['before_login']}; then {message.reply}"


# Python 3.9 and newer, in single quotes for the shell.
_SCRIPT = r"""
import base64, json, smtplib, ssl, sys
asked = json.load(sys.stdin)
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
seen = {"login_in_clear": False}
if asked["port"] == 465:
    smtp = smtplib.SMTP_SSL("127.0.0.1", 465, context=context, timeout=60)
    smtp.ehlo()
else:
    smtp = smtplib.SMTP("127.0.0.1", asked["port"], timeout=60)
    smtp.ehlo()
    seen["login_in_clear"] = smtp.has_extn("auth")
    smtp.starttls(context=context)
    smtp.ehlo()
def login(password):
    plain = base64.b64encode("\0".join(("", asked["user"], password)).encode()).decode()
    return smtp.docmd("AUTH", "PLAIN " + plain)[0]
def envelope():
    code = smtp.mail(asked["sender"])[0]
    return code if code >= 400 else smtp.rcpt(asked["recipient"])[0]
seen["before_login"] = envelope()
smtp.rset()
seen["wrong_password"] = login("not-" + asked["password"])
seen["right_password"] = login(asked["password"])
if envelope() == 250:
    smtp.data("Subject: {}\r\nFrom: <{}>\r\n\r\nx\r\n".format(asked["subject"], asked["sender"]))
smtp.quit()
print(json.dumps(seen))
"""

CHECKS = (submission,)
