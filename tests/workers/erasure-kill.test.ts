/** An erasure outlives the process that is at it. */

import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { freePort } from "../../lib/free-port.ts";
import { imEvents, imTopics } from "../../lib/im/index.ts";
import { openQueue } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { loadSecrets } from "../../lib/secrets.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { makeChat } from "../support/im.ts";
import { openTestStore } from "../support/redis.ts";
import { remainsIn } from "../support/remains.ts";
import { startUnit } from "../support/unit.ts";

const ANN = "ann.of@example.org";
const CANARY = "canaryword";

test("the process killed that was at it, the next one ends it", async () => {
  await using store = await openTestStore("erasure-kill");
  using folder = temporaryFolder("erasure-kill");
  const chat = makeChat(store);
  const groups = await Promise.all(Array.from({ length: 60 }, () => chat.group(ANN, "bob")));
  await Promise.all(groups.map((group) => chat.send(ANN, group, CANARY)));
  const queue = openQueue({ ...store, clock: systemClock, log: silentLog, member: "t", topics: imTopics });
  // It waits for this one: it cannot end before the kill, however late that comes.
  await queue.catalog.declareGroup(imEvents.name, "shop", { mode: "ordered", start: "first" });
  const port = await freePort();
  const env = { SKEIN_PORT: String(port) };
  const start = () => startUnit({ ...store, env }, folder.path, "archive", "logic", "gateway");
  const none = { jwtSecret: undefined, serviceKey: undefined, internalSecret: undefined, vapidKey: undefined };
  const { serviceKey } = loadSecrets({ dataDir: folder.path, ...none });
  const erase = () =>
    fetch(`http://127.0.0.1:${port}/v1/users/${encodeURIComponent(ANN)}`, {
      ...{ method: "DELETE", headers: { authorization: `Bearer ${serviceKey}` } },
    });
  const record = async () => (await store.redis.commands.keys(`${store.prefix}*erasures}:*`))[0] ?? "none";

  await using first = await start();
  const cut = erase().catch(() => undefined);
  await eventually(async () => {
    const rest = await Promise.all(groups.map((group) => store.redis.commands.hexists(store.keys.members(group), ANN)));
    if (!rest.includes(0)) throw new Error("it has not begun");
  });
  await first.kill();
  await cut;
  expect(await store.redis.commands.hget(await record(), "state")).toBe("running");
  await queue.control.dropGroup(imEvents, "shop");
  // As if its lease were over.
  await store.redis.commands.hset(await record(), "lease", 0);
  await using _second = await start();
  await eventually(async () => {
    const response = await erase();
    expect([response.status, ((await response.json()) as { state: string }).state]).toEqual([200, "done"]);
  });
  await eventually(async () => expect(await remainsIn(store, [ANN, CANARY])).toEqual([]));
});
