"""Bills each invoice of every tenant: a complete consumer of a bus over HTTP, with Python's standard library alone."""
import json, os, time, urllib.error, urllib.request

BUS = os.environ.get("BUS", "http://127.0.0.1:7780")
TOKEN = os.environ.get("BUS_TOKEN")  # Not needed where the bus knows this machine, or a certificate.


def call(method, path, body):
    """The answer. What a repeat can help is repeated: each operation of the bus can be."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {TOKEN}"} if TOKEN else {})
    while True:
        request = urllib.request.Request(BUS + path, json.dumps(body).encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            problem = json.load(refused)
            if refused.code in (429, 503):
                time.sleep(problem["retry_after_ms"] / 1000)
            elif "results" in problem:  # Leases that had ended, for one: those events come again.
                return problem
            else:
                raise SystemExit(f"{problem['detail']} [{problem['code']}]")
        except OSError:  # The bus is away.
            time.sleep(1)


def handle(event):
    """May be called twice for an event: tenant, source and id are the key to be idempotent by."""
    print(f"{event['tenant']} owes {event['data']['amount']}", flush=True)


def verdict(event):
    try:
        handle(event)
        return {"verdict": "handled"}
    except OSError as error:  # What it needs is away: later, by the bus's schedule.
        return {"verdict": "retry", "reason": str(error)}
    except Exception as error:  # It will fail each time.
        return {"verdict": "dead-letter", "reason": repr(error)}


call("PUT", "/v1/subscriptions/billing", {"need": "durable", "filter": {"event_types": ["invoice.*"]}})
while True:
    fetched = call("POST", "/v1/subscriptions/billing:fetch", {"max_deliveries": 50, "wait_ms": 8000})
    settlements = [{"token": d["token"], **verdict(d["event"])} for d in fetched["deliveries"]]
    if settlements:
        call("POST", "/v1/settlements", {"settlements": settlements})
