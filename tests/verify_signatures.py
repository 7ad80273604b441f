"""Verifies captured requests with the `standardwebhooks` package from PyPI.

Usage: verify_signatures.py FILE

FILE holds a JSON array of {name, secret, headers, body_base64}. Every request
must verify, and none of its altered copies may. Prints "N verified"; ends with
status 1 and one line per fault otherwise.
"""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def accepts(webhook, body, headers):
    """Whether the library takes the request for authentic."""
    try:
        webhook.verify(body, headers)
    except WebhookVerificationError:
        return False
    except json.JSONDecodeError:
        # Raised after the signature was found good.
        return True
    return True


def faults(request):
    """What is wrong with one captured request."""
    webhook = Webhook(request["secret"])
    headers = request["headers"]
    body = base64.b64decode(request["body_base64"])
    if not accepts(webhook, body, headers):
        yield "refused"
    altered = {
        "another body": (body + b" ", headers),
        "another id": (body, {**headers, "webhook-id": headers["webhook-id"] + "0"}),
        "another time": (body, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}),
    }
    for change, (changed_body, changed_headers) in altered.items():
        if accepts(webhook, changed_body, changed_headers):
            yield f"accepted with {change}"


def main(path):
    with open(path, encoding="utf-8") as file:
        requests = json.load(file)
    found = [f"{request['name']}: {fault}" for request in requests for fault in faults(request)]
    if found or not requests:
        print("\n".join(found) or "nothing to verify", file=sys.stderr)
        return 1
    print(f"{len(requests)} verified")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
