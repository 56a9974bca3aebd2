/**
 * The before-send hook: a service of the operator's is asked about each message, and each edit, before it is committed. It is a call and no
 * event, for its answer decides. The call is signed (Standard Webhooks); its `webhook-id` is the same for every try of one send.
 *
 *   {action: "send", conversation, from, type, body, replyTo?, mentions?}          200 {"action": "allow"}
 *   {action: "edit", conversation, from, seq, body}                                200 {"action": "replace", "body": {…}}
 *                                                                                  200 {"action": "refuse", "reason": "…"}
 *
 * Anything else, and silence, is no verdict: then SKEIN_HOOK_FAILURE says whether all passes or nothing. A hook that does not answer
 * 5 times in a row is left alone for a while (lib/http/circuit.ts), so that it delays nobody.
 */

import * as v from "valibot";
import type { Clock } from "../../lib/clock.ts";
import type { HookConfig } from "../../lib/config.ts";
import { AppError } from "../../lib/errors.ts";
import { createOutbound, signWebhook } from "../../lib/http/outbound.ts";
import { BodySchema, type Draft, isTextBody, type Judge, type Verdict } from "../../lib/im/index.ts";
import type { Log, Metrics } from "../../lib/observability/index.ts";
import { createService, type Service } from "../../lib/service.ts";

const REASON_CHARACTERS_MAX = 500;
/** A second of messages at a hook that takes 60 ms is 1 000: more at once than a webhook's receiver is given. */
const UNDER_WAY_MAX = 64;
/** Of one sender, roughly: what he says too fast waits for himself, so a hook that is slow over him is not slow for the others. */
const UNDER_WAY_OF_SENDER_MAX = 16;
/** What waits for its turn at the hook has this much in all; with the commit it stays within the 5 s of a call. */
const PATIENCE = 2;
const RETRY_AFTER_MS = 1_000;

interface HookParts {
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

const Reply = v.variant("action", [
  v.object({ action: v.literal("allow") }),
  v.object({ action: v.literal("replace"), body: BodySchema }),
  v.object({ action: v.literal("refuse"), reason: v.pipe(v.string(), v.maxLength(REASON_CHARACTERS_MAX)) }),
]);

export interface Hook {
  readonly judge: Judge;
  /** Ends its connections. */
  readonly service: Service;
}

export function createHook(
  { url, secret, timeoutMs, onFailure }: HookConfig,
  { clock, log, metrics }: HookParts,
): Hook {
  // The URL is the operator's own and not a user's: it may lie in a private network.
  const outbound = createOutbound({ allowPrivate: true, timeoutMs, underWayPerHost: UNDER_WAY_MAX });

  let isFailing = false;
  /** Questions that are not answered, by sender. */
  const open = new Map<string, Promise<Verdict>[]>();

  /** An earlier question has run out of patience before this one does: its turn needs no deadline of its own. */
  async function askInTurn(draft: Draft): Promise<Verdict> {
    const own = open.get(draft.by) ?? [];
    open.set(draft.by, own);
    const before = own.at(-UNDER_WAY_OF_SENDER_MAX);
    const patience = AbortSignal.timeout(PATIENCE * timeoutMs);
    const asked = Promise.allSettled([before]).then(() => ask(draft, patience));
    own.push(asked);
    try {
      return await asked;
    } finally {
      own.splice(own.indexOf(asked), 1);
      if (own.length === 0) open.delete(draft.by);
    }
  }

  async function ask(draft: Draft, patience: AbortSignal): Promise<Verdict> {
    const { by, id, ...shown } = draft;
    const body = JSON.stringify({ ...shown, from: by });
    const signature = signWebhook({
      id: `${by}/${draft.conversation}/${id}`,
      nowMs: clock.now(),
      body,
      secrets: [secret],
    });
    const headers = { "content-type": "application/json", "user-agent": "Skein", ...signature };
    const result = await outbound.call({ url, headers, body }, patience);
    if (result.kind === "later") throw new Error("it is left alone, for it did not answer");
    if (result.kind !== "answer") throw new Error(result.reason);
    if (result.status !== 200) throw new Error(`it answered ${result.status}`);
    return readVerdict(draft, result.body);
  }

  return {
    async judge(draft) {
      const startedMs = performance.now();
      try {
        const verdict = await askInTurn(draft);
        metrics.hookCalls.inc({ outcome: verdict.action });
        isFailing = false;
        return verdict;
      } catch (error) {
        metrics.hookCalls.inc({ outcome: "failed" });
        // The first of several: a hook that is away fails thousands of times a second. The metric counts them.
        if (!isFailing) log.warn({ error, onFailure }, "the before-send hook gives no verdict");
        isFailing = true;
        if (onFailure === "allow") return { action: "allow" };
        throw new AppError("OVERLOADED", "The message could not be reviewed", { retryAfterMs: RETRY_AFTER_MS });
      } finally {
        metrics.hookSeconds.observe((performance.now() - startedMs) / 1_000);
      }
    },
    service: createService(
      "hook",
      async () => undefined,
      async () => outbound.close(),
    ),
  };
}

/** Throws when it is none. */
function readVerdict({ type }: Draft, body: string | undefined): Verdict {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body ?? "");
  } catch {
    throw new Error("its answer is not JSON");
  }
  const { success, output, issues } = v.safeParse(Reply, parsed);
  if (!success) throw new Error(`its answer is no verdict: ${v.getDotPath(issues[0]) ?? ""} ${issues[0].message}`);
  if (output.action === "replace" && type === "text" && !isTextBody(output.body)) {
    throw new Error("its body is no {text}, and the message is a text");
  }
  return output;
}
