/** The metrics of several processes at any one of them. */

import { expect, test } from "bun:test";
import { createMetrics, silentLog } from "../../lib/observability/index.ts";
import { createMetricSnapshots } from "../../lib/redis/index.ts";
import { eventually } from "../support/eventually.ts";
import { createFakeClock } from "../support/fake-clock.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";
import { startTestRedis } from "../support/redis-server.ts";

function openProcess(store: TestStore, unit: string) {
  const metrics = createMetrics(unit);
  const clock = createFakeClock();
  const snapshots = createMetricSnapshots({ ...store, unit, metrics, clock, log: silentLog });
  return { metrics, clock, ...snapshots };
}

/** The series of a metric, as lines. */
function seriesOf(text: string, name: string): string[] {
  return text.split("\n").filter((line) => line.startsWith(`${name}{`));
}

const archived = (unit: string, value: number) => `im_archive_entries_total{unit="${unit}"} ${value}`;

test("every process tells of all, each series by its unit, in one block a metric", async () => {
  await using store = await openTestStore("metrics");
  const [a, b] = [openProcess(store, "a"), openProcess(store, "b")];
  a.metrics.archived.inc(1);
  b.metrics.archived.inc(2);
  await b.service.start();
  await eventually(async () => {
    const text = await a.tell();
    expect(seriesOf(text, "im_archive_entries_total")).toEqual([archived("a", 1), archived("b", 2)]);
    expect(text.match(/# TYPE im_archive_entries_total counter/g)).toHaveLength(1);
    expect(text.match(/im_messages_commit_seconds_bucket\{le="\+Inf",unit="[ab]"\}/g)).toHaveLength(2);
  });
  // Its own as of now, and from then on nobody tells an older figure.
  a.metrics.archived.inc(4);
  expect(await a.tell()).toContain(archived("a", 5));
  expect(await b.tell()).toContain(archived("a", 5));

  b.metrics.archived.inc(7);
  await eventually(async () => {
    await b.clock.advance(10_000);
    expect(await a.tell()).toContain(archived("b", 9));
  });
  await b.service.stop(AbortSignal.abort());
  expect(await a.tell()).not.toContain('unit="b"');
});

test("a process that died is told of until its snapshot expires; what cannot be read or is too large is left out", async () => {
  await using store = await openTestStore("metrics");
  const { keys, redis } = store;
  const [a, dead] = [openProcess(store, "a"), openProcess(store, "dead")];
  await dead.tell();
  const ttl = await redis.commands.pttl(keys.metricSnapshot("dead"));
  expect(ttl).toBeGreaterThan(30_000);
  expect(ttl).toBeLessThanOrEqual(45_000);
  expect(await redis.commands.strlen(keys.metricSnapshot("dead"))).toBeLessThan(10_000);
  expect(await a.tell()).toContain('unit="dead"');
  await redis.commands.set(keys.metricSnapshot("dead"), "not gzip", "KEEPTTL");
  expect(await a.tell()).not.toContain('unit="dead"');
  expect(await a.tell()).toContain('unit="a"');
  await redis.commands.del(keys.metricSnapshot("dead"));
  expect(await a.tell()).toContain('unit="a"');

  for (let i = 0; i < 20_000; i++) dead.metrics.published.inc({ topic: `${i}${Bun.hash(`${i}`)}` });
  await dead.write("dead", dead.metrics.registry);
  expect(await redis.commands.exists(keys.metricSnapshot("dead"))).toBe(0);
});

test("names are bounded: those of processes that are gone leave first", async () => {
  await using store = await openTestStore("metrics");
  const { keys, redis } = store;
  const names = keys.metricSnapshots();
  await redis.commands.zadd(names, ...Array.from({ length: 300 }, (_, i) => [i, `gone.${i}`]).flat());
  await openProcess(store, "a").tell();
  expect(await redis.commands.zcard(names)).toBe(256);
  expect(await redis.commands.zscore(names, "a")).not.toBeNull();
  expect(await redis.commands.pttl(names)).toBeGreaterThan(30_000);
});

test("while Redis is away a process tells of itself", async () => {
  const server = await startTestRedis();
  try {
    await using store = await openTestStore("metrics", { url: server.url });
    const [a, b] = [openProcess(store, "a"), openProcess(store, "b")];
    await b.tell();
    server.kill("SIGKILL");
    await eventually(async () => {
      const text = await a.tell();
      expect(text).toContain('unit="a"');
      expect(text).not.toContain('unit="b"');
    });
  } finally {
    await server.stop();
  }
});
