/**
 * Webhooks: every group that was declared with one is consumed here, in its mode, and each message is posted to its URL as a signed
 * CloudEvent. Declarations are looked at once a second, so a new or changed one is in force within two.
 *
 *   2xx                      ack
 *   410                      the receiver is gone for good: the group is paused, with the reason, until an operator resumes it
 *   429, 503 + Retry-After   again then; no attempt is counted, for the receiver only asks for time
 *   host does not answer     after some failures calls are held back (lib/http/circuit.ts); held back is no attempt
 *   anything else            an attempt; then the group's ladder, and dead letters at its end
 *
 * `webhook-id` is the message's id in every attempt: receivers that remember it act once.
 */

import type { Clock } from "../../lib/clock.ts";
import { type Outbound, type OutboundResult, signWebhook } from "../../lib/http/outbound.ts";
import {
  type ConsumeOptions,
  cloudEventOf,
  type DeclaredGroup,
  declarationOf,
  Later,
  type Message,
  type Queue,
  type Topic,
  type Webhook,
} from "../../lib/mq/index.ts";
import type { Log, Metrics } from "../../lib/observability/index.ts";
import { createService, type Service } from "../../lib/service.ts";

const LOOK_MS = 1_000;
/** Calls of one group under way in this process: twice what one host is given at a time, so that it never waits for us. */
const IN_FLIGHT_MAX = 32;
/** A receiver that asks for no time at all is not asked again at once. */
const RETRY_AFTER_MIN_MS = 100;
/** A paused group's members let go within a second; until then what they hand out waits, and then is nobody's. */
const GONE_MS = 2_000;
/** Calls under way may come to their end so long when the declaration has changed. */
const END_WITHIN_MS = 500;
const GONE_REASON = "the webhook answered 410 Gone";

export interface WebhookParts {
  readonly queue: Queue;
  readonly outbound: Outbound;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

/** One declared group, as it is consumed here. */
interface Running {
  readonly revision: string;
  readonly service: Service;
  /** Ends the calls under way: their messages are given out again. */
  readonly ending: AbortController;
}

export function createWebhooks(parts: WebhookParts): Service {
  const { queue, log } = parts;
  const running = new Map<string, Running>();
  /** Groups whose start failed, so that it is said once. */
  const failing = new Set<string>();
  const stopping = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let looking: Promise<void> | undefined;

  async function look(): Promise<void> {
    try {
      const wanted = new Map((await queue.catalog.webhooks()).map((webhook) => [nameOf(webhook), webhook]));
      const over = [...running].filter(([name, { revision }]) => wanted.get(name)?.revision !== revision);
      await Promise.all(over.map(([name]) => end(name, stopping.signal)));
      const missing = [...wanted.values()].filter((webhook) => !running.has(nameOf(webhook)));
      if (!stopping.signal.aborted) await Promise.all(missing.map(begin));
    } catch (error) {
      queue.report(error, "the declared webhooks could not be looked up; the next look tries again");
    }
  }

  async function begin(webhook: Webhook): Promise<void> {
    const name = nameOf(webhook);
    const ending = new AbortController();
    try {
      const [topic, declared] = await Promise.all([
        queue.catalog.topicOf(webhook.topic),
        queue.catalog.groupOf(webhook.topic, webhook.group),
      ]);
      if (!declared.settings.webhook) return;
      const service = queue.consume(topic, optionsOf(declared, poster(parts, topic, declared, ending.signal)));
      running.set(name, { revision: webhook.revision, service, ending });
      await service.start();
      failing.delete(name);
    } catch (error) {
      if (running.has(name)) await end(name, AbortSignal.abort());
      if (!failing.has(name))
        log.warn({ ...webhook, error }, "a webhook's group could not be consumed; it is tried again");
      failing.add(name);
    }
  }

  async function end(name: string, signal: AbortSignal): Promise<void> {
    const { service, ending } = running.get(name)!;
    running.delete(name);
    const timer = setTimeout(() => ending.abort(new Error("the webhook was declared anew or dropped")), END_WITHIN_MS);
    await service.stop(signal);
    clearTimeout(timer);
  }

  const keepLooking = () => {
    looking = look().finally(() => {
      if (!stopping.signal.aborted) timer = setTimeout(keepLooking, LOOK_MS);
    });
  };
  return createService(
    "webhooks",
    async () => keepLooking(),
    async (signal) => {
      stopping.abort();
      clearTimeout(timer);
      await looking;
      // Softly: calls under way may come to their end.
      await Promise.all([...running.values()].map(({ service }) => service.stop(signal)));
      running.clear();
    },
  );
}

function nameOf({ topic, group }: { readonly topic: string; readonly group: string }): string {
  return `${topic} ${group}`;
}

function optionsOf(
  { group, settings }: DeclaredGroup,
  handle: (message: Message<unknown>) => Promise<void>,
): ConsumeOptions<unknown> {
  const { mode, start, leaseMs, maxAttempts, onPoison, tags } = declarationOf(group, settings);
  const { backoff } = settings;
  return {
    ...{ group, mode, start, leaseMs, maxAttempts, onPoison },
    ...(backoff === undefined ? {} : { backoff }),
    ...(tags ? { tags: [...tags] } : {}),
    inFlightMax: IN_FLIGHT_MAX,
    validate: false,
    handle,
  };
}

/** The handler of one group. */
function poster(
  { queue, outbound, clock, log, metrics }: WebhookParts,
  topic: Topic<unknown>,
  { group, settings }: DeclaredGroup,
  ending: AbortSignal,
) {
  const { url, secret } = settings.webhook!;
  const secrets = typeof secret === "string" ? [secret] : secret;
  let goneUntil = 0;
  return async (message: Message<unknown>): Promise<void> => {
    if (performance.now() < goneUntil) throw new Later(GONE_MS);
    const body = cloudEventOf(message);
    const headers = {
      "content-type": "application/cloudevents+json",
      "user-agent": "Skein",
      ...signWebhook({ id: message.id, nowMs: clock.now(), body, secrets }),
    };
    const result = await outbound.call({ url, headers, body }, ending).catch(() => {
      throw new Later(RETRY_AFTER_MIN_MS);
    });
    const outcome = outcomeOf(result);
    metrics.webhookCalls.inc({ outcome: outcome.kind });
    if (outcome.kind === "gone") {
      goneUntil = performance.now() + GONE_MS;
      log.warn({ topic: topic.name, group }, GONE_REASON);
      await queue.control.pause(topic, group, GONE_REASON);
      throw new Later(GONE_MS);
    }
    if (outcome.kind === "retry") throw new Later(outcome.afterMs);
    if (outcome.kind === "failed") throw new Error(outcome.reason);
  };
}

type Outcome =
  | { readonly kind: "ok" | "gone" }
  | { readonly kind: "retry"; readonly afterMs: number }
  | { readonly kind: "failed"; readonly reason: string };

function outcomeOf(result: OutboundResult): Outcome {
  switch (result.kind) {
    case "later":
      return { kind: "retry", afterMs: result.afterMs };
    case "failed":
    case "refused":
      return { kind: "failed", reason: `webhook: ${result.reason}` };
    case "answer": {
      const { status, retryAfterMs } = result;
      if (status >= 200 && status < 300) return { kind: "ok" };
      if (status === 410) return { kind: "gone" };
      if ((status === 429 || status === 503) && retryAfterMs !== undefined) {
        return { kind: "retry", afterMs: Math.max(RETRY_AFTER_MIN_MS, retryAfterMs) };
      }
      return { kind: "failed", reason: `webhook: answered ${status}` };
    }
  }
}
