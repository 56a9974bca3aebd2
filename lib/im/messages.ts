/**
 * Sending: from a checked request to a committed message, many at a time. The user's body stays as it is: it is serialised
 * once here, and from then on every store, stream, frame and service carries those bytes.
 */

import type { AppError } from "../errors.ts";
import { newId, timeOfId } from "../id.ts";
import { toAppError } from "../redis/index.ts";
import type { Chat } from "./chat.ts";
import type { Send, SendOutcome } from "./commit.ts";
import type { Body } from "./protocol.ts";
import type { SendReply } from "./requests.ts";

export interface SendInput {
  readonly by: string;
  readonly connection?: string | undefined;
  readonly params: {
    readonly conversation: string;
    readonly clientId: string;
    readonly type: string;
    readonly body: Body;
    readonly replyTo?: number | undefined;
    readonly mentions?: readonly string[] | undefined;
  };
}

export type SendResult =
  | { readonly ok: true; readonly value: SendReply }
  | { readonly ok: false; readonly error: AppError };

/**
 * Commits one send. Errors: NOT_MEMBER (also for a conversation that does not exist), MUTED, FORBIDDEN when dissolved, INVALID, REFUSED,
 * CONFLICT (clientId used for other content), OVERLOADED, UNKNOWN_OUTCOME (send again under the same clientId).
 */
export async function send(chat: Sending, input: SendInput): Promise<SendResult> {
  const { metrics } = chat;
  const outcome = await reviewed(chat, input);
  if ("error" in outcome) {
    metrics.sends.inc({ outcome: outcome.error.code });
    return { ok: false, error: outcome.error };
  }
  const { seq, id, isDuplicate } = outcome;
  metrics.sends.inc({ outcome: isDuplicate ? "duplicate" : "ok" });
  const reply = { id, conversation: input.params.conversation, seq, sentAt: timeOfId(id) };
  return { ok: true, value: isDuplicate ? { ...reply, duplicate: true } : reply };
}

type Sending = Pick<Chat, "committer" | "review" | "clock" | "metrics">;

async function reviewed({ committer, review, clock }: Sending, input: SendInput): Promise<SendOutcome> {
  const { by, params } = input;
  const { conversation, clientId: id, type, body, replyTo, mentions } = params;
  try {
    return await review.pass(
      { action: "send", by, conversation, id, type, body, replyTo, mentions },
      (passed) => committer.commit(prepare(input, passed, clock.now())),
      () => committer.knows(by, conversation, id),
    );
  } catch (error) {
    return { error: toAppError(error) };
  }
}

function prepare({ by, connection, params }: SendInput, passed: Body, nowMs: number): Send {
  const { conversation, clientId, type, replyTo, mentions } = params;
  const given = JSON.stringify(params.body);
  const body = passed === params.body ? given : JSON.stringify(passed);
  const extras =
    (replyTo === undefined ? "" : `,"replyTo":${replyTo}`) +
    (mentions === undefined ? "" : `,"mentions":${JSON.stringify(mentions)}`);
  const id = newId(nowMs);
  // Ids are of alphabets that need no escaping in JSON.
  const tail = `"id":"${id}","conversation":"${conversation}","from":"${by}","type":"${type}","body":${body},"sentAt":${nowMs}${extras}}`;
  return {
    conversation,
    by,
    clientId,
    // Of what the sender gave: his repetition gives it again, whatever was made of it.
    digest: digestOf(given + type + extras),
    id,
    replyTo: replyTo ?? 0,
    tail,
    connection: connection ?? "",
  };
}

/**
 * 53 bits of a text, base 36. It guards a sender against his own mistake, so it need not resist an attacker; SHA-256 cost
 * 1.1 µs per send, this 0.15 µs (two multiply-xor lanes, cyrb53's construction).
 */
export function digestOf(text: string): string {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    a = Math.imul(a ^ unit, 2_654_435_761);
    b = Math.imul(b ^ unit, 1_597_334_677);
  }
  a = Math.imul(a ^ (a >>> 16), 2_246_822_507) ^ Math.imul(b ^ (b >>> 13), 3_266_489_909);
  b = Math.imul(b ^ (b >>> 16), 2_246_822_507) ^ Math.imul(a ^ (a >>> 13), 3_266_489_909);
  return (4_294_967_296 * (2_097_151 & b) + (a >>> 0)).toString(36);
}
