/**
 * The group `devices` of im.push: one device's push, at its provider. A message of its own, so it has its own retries, its own
 * dead letter, and no part in the trouble of others; a group of its own, so nothing that waits for the outside holds up who is
 * to be told. What is told is looked up right before each try. Outcomes are the provider's (provider.ts):
 *
 *   sent      done                                   later     again then (Retry-After, not counted), else by the ladder
 *   gone      the registration is removed            refused   a dead letter at once
 *             (as of one whose address is another's now)
 *   expired   our credentials: again at once, then by the ladder
 */

import type { Clock } from "../../lib/clock.ts";
import { type DevicePush, imPush, type PushAddress, type PushDevices, type PushKind } from "../../lib/im/index.ts";
import { Bury, Later, type Queue } from "../../lib/mq/index.ts";
import type { Metrics } from "../../lib/observability/index.ts";
import type { Service } from "../../lib/service.ts";
import type { Look, Told } from "./look.ts";
import type { Notification, PushOutcome } from "./provider.ts";
import type { Providers, Target } from "./providers.ts";

/** Pushes in hand: 16 calls each to the providers, and others that wait their turn. */
const IN_FLIGHT_MAX = 512;
/**
 * Of them, webhooks of one host: as many as it is called with at a time. Their hosts are named by users, and may be slow on
 * purpose.
 */
const WEBHOOKS_PER_HOST = 16;
/** And of all hosts together, so that the providers always have the other half. */
const WEBHOOKS_MAX = 256;
/** A webhook that finds its places taken comes back: a call lasts up to 10 s. */
const CROWD_MS = 2_000;
/**
 * After so long without a word from a pusher another takes over what it had in hand: the longest that a push waits for that.
 */
const LEASE_MS = 10_000;
/** A line on a lock screen. With 6 bytes for a character that JSON escapes, the texts fit the 3 993 bytes of Web Push. */
const TEXT_CHARACTERS_MAX = 250;
const TITLE_CHARACTERS_MAX = 100;
/** A provider that asks for no time at all is not asked again at once. */
const RETRY_AFTER_MIN_MS = 100;

export interface DevicePusherParts {
  readonly clock: Clock;
  readonly queue: Queue;
  readonly metrics: Metrics;
  readonly pushDevices: PushDevices;
  readonly look: Look;
  readonly providers: Providers;
}

export function createDevicePusher(parts: DevicePusherParts): Service {
  const { clock, queue, metrics, pushDevices, look, providers } = parts;
  const crowd = createCrowd();

  async function push(step: DevicePush, expiresAt: number, signal: AbortSignal): Promise<void> {
    const { user, device } = step;
    const registration = (await pushDevices.of(user)).get(device);
    if (!registration) return;
    const { kind } = registration.address;
    if (!(await pushDevices.holds(user, device, registration.address))) {
      metrics.pushes.inc({ kind, outcome: "gone" });
      await pushDevices.drop(user, device, registration.id);
      return;
    }
    const leave = crowd.enter(registration.address);
    try {
      const told: Told | undefined = "notice" in step ? step.notice : await look(user, step.conversation, step.seq);
      if (!told) {
        metrics.pushes.inc({ kind, outcome: "quiet" });
        return;
      }
      const outcome = await send({ user, device, registration }, toNotification(told, expiresAt), signal);
      metrics.pushes.inc({ kind, outcome: outcome.kind });
      if (outcome.kind === "gone") await pushDevices.drop(user, device, registration.id);
      else throwUnlessSent(kind, outcome);
    } finally {
      leave();
    }
  }

  async function send(target: Target, notification: Notification, signal: AbortSignal) {
    const outcome = await providers.send(target, notification, signal);
    return outcome.kind === "expired" ? providers.send(target, notification, signal) : outcome;
  }

  return queue.consume(imPush, {
    group: "devices",
    mode: "concurrent",
    tags: ["device"],
    inFlightMax: IN_FLIGHT_MAX,
    leaseMs: LEASE_MS,
    async handle({ data, expireAt }, { signal }) {
      if ("device" in data) await push(data, expireAt ?? clock.now(), signal);
    },
  });
}

function toNotification(told: Told, expiresAt: number): Notification {
  const [title, text] = [cut(told.title, TITLE_CHARACTERS_MAX), cut(told.text, TEXT_CHARACTERS_MAX)];
  return { ...told, title, text, expiresAt };
}

/** By characters, not units: half of a surrogate pair is no text. */
function cut(text: string, charactersMax: number): string {
  if (text.length <= charactersMax) return text;
  return `${Array.from(text.slice(0, 2 * charactersMax))
    .slice(0, charactersMax - 1)
    .join("")}…`;
}

/** What the queue is to do with what was not sent. */
function throwUnlessSent(kind: PushKind, outcome: PushOutcome): void {
  if (outcome.kind === "refused") throw new Bury(`${kind}: ${outcome.reason}`);
  if (outcome.kind === "expired") throw new Error(`${kind}: our credentials are not taken`);
  if (outcome.kind !== "later") return;
  if (outcome.afterMs !== undefined) throw new Later(Math.max(RETRY_AFTER_MIN_MS, outcome.afterMs));
  throw new Error(`${kind}: the provider has not taken it`);
}

/** Webhooks in hand, by host: a host is forgotten with its last one. */
function createCrowd() {
  const byHost = new Map<string, number>();
  let all = 0;
  return {
    /** Returns how to leave. Throws Later when a webhook's places are taken. */
    enter(address: PushAddress): () => void {
      if (address.kind !== "webhook") return () => undefined;
      const { host } = new URL(address.url);
      const own = byHost.get(host) ?? 0;
      if (own >= WEBHOOKS_PER_HOST || all >= WEBHOOKS_MAX) throw new Later(CROWD_MS);
      byHost.set(host, own + 1);
      all += 1;
      return () => {
        all -= 1;
        const left = byHost.get(host)! - 1;
        if (left === 0) byHost.delete(host);
        else byHost.set(host, left);
      };
    },
  };
}
