/**
 * The metrics of all processes at any one of them. A process keeps a snapshot of its registry in Redis, told apart by the label
 * `unit`; whoever is asked writes its own and reads all. So every answer, of whichever process, is at least as new as the one
 * before, and no counter seems to go back.
 *
 * A snapshot lives for LIFE_MS: a dead process is told of for so long. One is 2 to 8 KB, compressed, and takes 2 to 10 ms to write,
 * the most in a gateway, which calls every method of logic.
 */

import type { Registry } from "prom-client";
import type { Clock } from "../clock.ts";
import { type Log, type Metrics, mergeExpositions } from "../observability/index.ts";
import { createRepeating, createService, type Service } from "../service.ts";
import type { RedisConnections } from "./client.ts";
import type { Keys } from "./keys.ts";

/** As old as another process' figures may be. Prometheus looks every 15 s or less often. */
const EVERY_MS = 10_000;
/** Longer than a round of the scheduler's chores and a process that is busy: no live one is left out. */
const LIFE_MS = 45_000;
/** Compressed: twenty-five times what a gateway has to say. Beyond it something makes labels without end. */
const BYTES_MAX = 200_000;
/** Names that are read. Those of dead processes leave as the oldest. */
const NAMES_MAX = 256;

export interface MetricSnapshots {
  /** Keeps this process' snapshot fresh while it runs, and takes it away at the end. */
  readonly service: Service;
  /** Replaces a snapshot that is the installation's, whichever process makes it. Throws Redis errors. */
  write(name: string, registry: Registry): Promise<void>;
  /** Prometheus text of all live processes, of this one as of now; while Redis is away of this one alone. */
  tell(): Promise<string>;
}

export interface MetricSnapshotsParts {
  readonly redis: RedisConnections;
  readonly keys: Keys;
  /** The process' name, as its registry's label says it. */
  readonly unit: string;
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly log: Log;
}

export function createMetricSnapshots({
  redis: { commands },
  keys,
  unit,
  metrics,
  clock,
  log,
}: MetricSnapshotsParts): MetricSnapshots {
  const names = keys.metricSnapshots();

  async function write(name: string, registry: Registry): Promise<void> {
    const snapshot = Buffer.from(Bun.gzipSync(await registry.metrics()));
    if (snapshot.length > BYTES_MAX) {
      log.warn({ name, bytes: snapshot.length, bytesMax: BYTES_MAX }, "a snapshot of metrics is too large to be kept");
      return;
    }
    await commands.set(keys.metricSnapshot(name), snapshot, "PX", LIFE_MS);
    await commands.zadd(names, clock.now(), name);
    await commands.zremrangebyrank(names, 0, -NAMES_MAX - 1);
    await commands.pexpire(names, LIFE_MS);
  }

  async function readAll(): Promise<string[]> {
    const found = await commands.zrange(names, "0", "-1");
    if (found.length === 0) return [];
    const snapshots = await commands.mgetBuffer(found.map((name) => keys.metricSnapshot(name)));
    return snapshots.filter((snapshot) => snapshot !== null).flatMap(unpack);
  }

  /** Of one that is not ours nothing. */
  function unpack(snapshot: Buffer): string[] {
    try {
      return [new TextDecoder().decode(Bun.gunzipSync(new Uint8Array(snapshot)))];
    } catch (error) {
      log.warn({ error }, "a snapshot of metrics cannot be read");
      return [];
    }
  }

  const keeping = createRepeating("metric snapshots", {
    ...{ clock, everyMs: EVERY_MS, act: () => write(unit, metrics.registry) },
    report: (error) => log.debug({ error }, "this process' metrics could not be written; the next time tries again"),
  });

  return {
    service: createService(
      keeping.name,
      () => keeping.start(),
      async (signal) => {
        await keeping.stop(signal);
        await commands.del(keys.metricSnapshot(unit)).catch(() => undefined);
      },
    ),
    write,
    async tell() {
      try {
        await write(unit, metrics.registry);
        return mergeExpositions(await readAll());
      } catch (error) {
        log.debug({ error }, "the metrics of other processes could not be read");
        return metrics.registry.metrics();
      }
    },
  };
}
