/**
 * One user's messages in one conversation: strictly one after the other, each tried under one clientId until it is acknowledged.
 * So the order of the lane's texts in the timeline is known in advance.
 */

import { type Backoff, backoffMs } from "../../lib/clock.ts";
import type { Client } from "./client.ts";
import type { EvidenceWriter } from "./evidence.ts";
import type { Random } from "./random.ts";

const RETRY: Backoff = { firstMs: 50, maxMs: 1_000, jitter: 0.5 };
/** Polls for a connection that is being made: shorter than the shortest reconnect. */
const RECONNECT_POLL_MS = 25;

export interface Counts {
  ok: number;
  /** Acknowledged as a repetition of an earlier try. */
  duplicate: number;
  failed: number;
  unknown: number;
  /** Refused for good: 0 in health. */
  refused: number;
  disorder: number;
}

export interface LaneOptions {
  readonly user: string;
  readonly conversation: string;
  readonly client: Client;
  readonly evidence: EvidenceWriter;
  readonly counts: Counts;
  readonly random: Random;
  /** Mean pause between an acknowledgement and the next message. */
  readonly pauseMs: number;
  isStopping(): boolean;
}

interface SendResult {
  readonly id: string;
  readonly seq: number;
  readonly duplicate?: true;
}

/** Sends until told to stop; resolves when its last message is acknowledged or refused. */
export async function runLane(options: LaneOptions): Promise<void> {
  const { user, conversation, random, pauseMs, isStopping } = options;
  await Bun.sleep(random.next() * pauseMs);
  for (let n = 1; !isStopping(); n++) {
    const id = `${user}-${conversation}-${n}`;
    // Texts of all lengths, so that records of many sizes are cut by a crash.
    const text = `${id} ${"lorem ipsum ".repeat(random.between(0, 20))}`.trimEnd();
    const isAcknowledged = await sendUntilAcknowledged(options, id, n, text);
    if (!isAcknowledged) return;
    if (pauseMs > 0) await Bun.sleep(random.next() * 2 * pauseMs);
  }
}

async function sendUntilAcknowledged(options: LaneOptions, id: string, n: number, text: string): Promise<boolean> {
  const { user, conversation, client, evidence, counts } = options;
  for (let tries = 1; ; tries++) {
    while (!client.isReady) await Bun.sleep(RECONNECT_POLL_MS);
    if (tries === 1) evidence.write({ e: "attempt", id, conversation, user, n, text, t: Date.now() });
    else evidence.write({ e: "retry", id, t: Date.now() });
    const outcome = await client.request("message.send", { conversation, clientId: id, body: { text } });
    if (outcome.kind === "ok") {
      const { seq, id: message, duplicate = false } = outcome.result as SendResult;
      evidence.write({ e: "ok", id, seq, message, duplicate, t: Date.now() });
      counts.ok++;
      if (duplicate) counts.duplicate++;
      return true;
    }
    const reason = outcome.kind === "unknown" ? outcome.reason : outcome.code;
    evidence.write({ e: outcome.kind, id, reason, t: Date.now() });
    counts[outcome.kind]++;
    if (outcome.kind === "failed" && !outcome.isRetryable) {
      counts.refused++;
      return false;
    }
    const retryAfterMs = outcome.kind === "failed" ? outcome.retryAfterMs : 0;
    await Bun.sleep(Math.max(retryAfterMs, backoffMs(tries, RETRY)));
  }
}
