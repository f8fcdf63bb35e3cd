// Bills each invoice of every tenant: a complete consumer of a bus over HTTP, with what Node has (22.18 or newer) alone.
type Event = { tenant: string; source: string; id: string; type: string; data?: any };
type Delivery = { token: string; attempt: number; event: Event };
type Verdict = { verdict: "handled" | "retry" | "dead-letter"; reason?: string };

const BUS = process.env.BUS ?? "http://127.0.0.1:7780";
const TOKEN = process.env.BUS_TOKEN; // Not needed where the bus knows this machine, or a certificate.
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The answer. What a repeat can help is repeated: each operation of the bus can be. */
async function call(method: string, path: string, body: object): Promise<any> {
  const headers = { "content-type": "application/json", ...(TOKEN && { authorization: `Bearer ${TOKEN}` }) };
  for (;;) {
    const signal = AbortSignal.timeout(30_000);
    const request = fetch(BUS + path, { method, headers, body: JSON.stringify(body), signal });
    const answer = await request.catch(() => undefined);
    const content = await answer?.json().catch(() => undefined);
    if (!answer || !content) await sleep(1000); // The bus is away.
    else if ([429, 503].includes(answer.status)) await sleep(content.retry_after_ms);
    else if (answer.ok || content.results) return content; // Leases that had ended, for one: those events come again.
    else throw new Error(`${content.detail} [${content.code}]`);
  }
}

/** May be called twice for an event: tenant, source and id are the key to be idempotent by. */
async function handle(event: Event): Promise<void> {
  if (typeof event.data?.amount !== "number") throw new TypeError("no amount");
  console.log(`${event.tenant} owes ${event.data.amount}`);
}

async function verdict(event: Event): Promise<Verdict> {
  try {
    await handle(event);
    return { verdict: "handled" };
  } catch (error) {
    // It will fail each time; what only fails for now is answered with "retry".
    return { verdict: error instanceof TypeError ? "dead-letter" : "retry", reason: String(error) };
  }
}

await call("PUT", "/v1/subscriptions/billing", { need: "durable", filter: { event_types: ["invoice.*"] } });
for (;;) {
  const fetched = await call("POST", "/v1/subscriptions/billing:fetch", { max_deliveries: 50, wait_ms: 8000 });
  const settle = async (d: Delivery) => ({ token: d.token, ...(await verdict(d.event)) });
  const settlements = await Promise.all(fetched.deliveries.map(settle));
  if (settlements.length) await call("POST", "/v1/settlements", { settlements });
}
