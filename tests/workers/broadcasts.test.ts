/** Broadcasts over HTTP, with everything real: extlogic's processes are killed meanwhile, and every recipient has the message once. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { directConversationId } from "../../lib/id.ts";
import { history } from "../../lib/im/index.ts";
import { eventually } from "../support/eventually.ts";
import { makeChat } from "../support/im.ts";
import { openTestServices, type TestServices } from "../support/services.ts";
import { startUnit, type TestUnit } from "../support/unit.ts";

let services: TestServices;
let call: TestServices["call"];
const units: TestUnit[] = [];
const folder = mkdtempSync(join(tmpdir(), "skein-broadcasts-"));

async function startExtlogic(): Promise<TestUnit> {
  const unit = await startUnit({ ...services.store, instance: `test.ext${units.length}` }, folder, "extlogic");
  units.push(unit);
  return unit;
}

beforeAll(async () => {
  services = await openTestServices("broadcasts");
  ({ call } = services);
  await Promise.all([startExtlogic(), startExtlogic()]);
});
afterAll(async () => {
  for (const unit of units) await unit[Symbol.asyncDispose]();
  await services[Symbol.asyncDispose]();
});

const users = (name: string, count: number) => Array.from({ length: count }, (_, i) => `${name}-${i}`);

/** The texts in the direct conversation of the two. */
async function textsTo(user: string, by: string): Promise<unknown[]> {
  const conversation = await directConversationId(by, user);
  const chat = makeChat(services.store);
  const { messages } = await history(chat, user, { conversation, limit: 50 }).catch(() => ({ messages: [] }));
  return messages.map(({ from, body }) => (from === by ? body.text : from));
}

const untilDone = (id: string) =>
  eventually(async () => {
    const { body } = await call("GET", `/v1/broadcasts/${id}`);
    expect(body.state).toBe("done");
    return body;
  }, 20_000);

test("to a list, with both runners killed on the way: each once, and progress is right", async () => {
  const to = users("listed", 600);
  const wanted = { id: "b1", audience: { users: to }, body: { text: "hello" }, perSecond: 400 };
  const created = await call("POST", "/v1/broadcasts", wanted);
  expect(created).toMatchObject({ status: 202, body: { id: "b1", state: "running", audience: { users: 600 } } });
  const totalIs = (count: number) =>
    eventually(async () => expect((await call("GET", "/v1/broadcasts/b1")).body.total).toBeGreaterThan(count));
  await totalIs(50);
  const starting = startExtlogic();
  await units[0]!.kill();
  await totalIs(150);
  await units[1]!.kill();
  await starting;
  await untilDone("b1");
  const { body } = await call("GET", "/v1/broadcasts/b1");
  expect(body).toMatchObject({ total: 600, sent: 600, refused: {}, perSecond: 400 });
  expect(body.endedAt).toBeGreaterThanOrEqual(body.startedAt + 1_000);
  for (const user of to) expect(await textsTo(user, "skein")).toEqual(["hello"]);
  expect(await call("POST", "/v1/broadcasts", wanted)).toMatchObject({ status: 200, body: { state: "done" } });
  expect(await call("POST", "/v1/broadcasts", { ...wanted, body: { text: "other" } })).toMatchObject({ status: 409 });
}, 40_000);
