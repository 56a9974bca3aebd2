/** What lower layers and peers ask of logic through `im.commands`, for they may not call it. */

import {
  broadcastCounts,
  type Chat,
  createTrim,
  imCommands,
  type SendCommand,
  type SendResult,
  send,
} from "../../lib/im/index.ts";
import { type DeliveryContext, Later, type Queue } from "../../lib/mq/index.ts";
import { toAppError } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";

/** A send that cannot be done now is tried again after this. */
const AGAIN_MS = 1_000;
/**
 * Commands under way: a message to everybody comes in bursts, and beside so many of them a live send waits for some ms of this process
 * at most. It is enough for some thousand commands a second.
 */
const IN_FLIGHT_MAX = 32;

export function createCommands(chat: Chat, queue: Queue): Service {
  const trim = createTrim(chat.redis, chat.keys);
  const expire = createTrim(chat.redis, chat.keys, 0);
  return queue.consume(imCommands, {
    group: "logic",
    mode: "ordered",
    inFlightMax: IN_FLIGHT_MAX,
    async handle({ id, data }, context) {
      switch (data.type) {
        case "archived":
          return (data.expired ? expire : trim)(data.conversation, data.epoch, data.through);
        case "send":
          return fulfil(chat, data, context);
        case "scheduled":
          return chat.scheduled.fire(data.by, data.id, id, (input) => settled(() => send(chat, input)));
      }
    },
  });
}

/** Of a broadcast's recipient it is counted what became of it, by the commit that finishes the command: once. */
async function fulfil(chat: Chat, command: SendCommand, context: DeliveryContext): Promise<void> {
  const { by, to, clientId, messageType: type, body, replyTo, mentions, cause } = command;
  const result = await settled(async () => {
    const conversation =
      "user" in to ? await chat.conversations.begin(by, { type: "direct", members: [to.user] }) : to.conversation;
    return send(chat, { by, params: { conversation, clientId, type, body, replyTo, mentions } });
  });
  const outcome = result.ok ? "sent" : result.error.code;
  await context.commit({ writes: [["HINCRBY", broadcastCounts(cause.id), outcome, 1]] });
}

/** A send, by all the rules of a live one. A refusal is a result; what may pass (OVERLOADED, …) is thrown: the queue tries again. */
async function settled(act: () => Promise<SendResult>): Promise<SendResult> {
  try {
    const result = await act();
    if (!result.ok) throw result.error;
    return result;
  } catch (thrown) {
    const error = toAppError(thrown);
    // However long it takes to pass: an attempt counted is an attempt fewer until the message is given up.
    if (error.retryable) throw new Later(error.retryAfterMs ?? AGAIN_MS);
    if (error.code === "INTERNAL") throw error;
    return { ok: false, error };
  }
}
