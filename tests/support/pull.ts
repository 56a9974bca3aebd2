/** Services outside that pull from a group of a test queue, each through a process of its own, so to say. */

import { type Clock, systemClock } from "../../lib/clock.ts";
import { type ConsumeOptions, declare } from "../../lib/mq/consumer.ts";
import type { NackOptions, PulledDelivery, ReceiveOptions } from "../../lib/mq/index.ts";
import { createPull } from "../../lib/mq/pull.ts";
import type { PullGroup } from "../../lib/mq/pull-outlet.ts";
import { silentLog } from "../../lib/observability/index.ts";
import type { Numbered, TestQueue } from "./queue.ts";

const SECRET = new Uint8Array(32).fill(7);

export type GroupOptions = Partial<Omit<ConsumeOptions<Numbered>, "handle" | "handleBatch">>;

export function pullGroup(options: GroupOptions = {}): PullGroup {
  return declare<unknown>({ group: "g", mode: "concurrent", leaseMs: 1_000, ...options, handle: () => undefined });
}

export interface Puller extends AsyncDisposable {
  receive(options?: ReceiveOptions): Promise<PulledDelivery<Numbered>[]>;
  ack(...tokens: string[]): Promise<string[]>;
  nack(token: string, options: NackOptions): Promise<string>;
  renew(leaseMs: number, ...tokens: string[]): Promise<string[]>;
}

/** One gateway that serves the group: all have the same secret. */
export function openPuller(t: TestQueue, group: PullGroup, { clock = systemClock }: { clock?: Clock } = {}): Puller {
  const { redis, keys, metrics } = t.store;
  const pull = createPull({ redis, keys, metrics, clock, log: silentLog, member: "gateway" }, SECRET);
  return {
    receive: (options) => pull.receive(t.topic, group, options),
    ack: async (...tokens) => (await pull.ack(t.topic, group, tokens)).map(({ result }) => result),
    nack: async (token, options) => (await pull.nack(t.topic, group, token, options)).result,
    renew: async (leaseMs, ...tokens) =>
      (await pull.renew(t.topic, group, tokens, leaseMs)).map(({ result }) => result),
    [Symbol.asyncDispose]: () => pull.dispose(),
  };
}

/** What was received, as `<n> attempt <attempt>`. */
export function shown(deliveries: readonly PulledDelivery<Numbered>[]): string[] {
  return deliveries.map(({ message, attempt }) => `${message.data.n} attempt ${attempt}`);
}

export function numbers(deliveries: readonly PulledDelivery<Numbered>[]): number[] {
  return deliveries.map(({ message }) => message.data.n);
}
