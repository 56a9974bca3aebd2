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
import type { DeliveryContext, Queue } from "../../lib/mq/index.ts";
import { toAppError } from "../../lib/redis/index.ts";
import type { Service } from "../../lib/service.ts";

export function createCommands(chat: Chat, queue: Queue): Service {
  const trim = createTrim(chat.redis, chat.keys);
  return queue.consume(imCommands, {
    group: "logic",
    mode: "ordered",
    async handle({ data }, context) {
      switch (data.type) {
        case "archived":
          return trim(data.conversation, data.epoch, data.through);
        case "send":
          return report(data.cause, await execute(chat, data), context);
      }
    },
  });
}

/** The send, by all the rules of a live one. A refusal is a result; what may pass (OVERLOADED, …) is thrown: the queue tries again. */
async function execute(chat: Chat, { by, to, messageType: type, ...content }: SendCommand): Promise<SendResult> {
  const { clientId, body, replyTo, mentions } = content;
  try {
    const conversation = "user" in to ? await directConversation(chat, by, to.user) : to.conversation;
    const result = await send(chat, { by, params: { conversation, clientId, type, body, replyTo, mentions } });
    if (!result.ok && result.error.retryable) throw result.error;
    return result;
  } catch (thrown) {
    const error = toAppError(thrown);
    if (error.retryable || error.code === "INTERNAL") throw error;
    return { ok: false, error };
  }
}

/** Tells what wants to know. Of a broadcast's recipient it is counted by the commit that finishes the command: once. */
async function report({ kind, id }: SendCommand["cause"], result: SendResult, context: DeliveryContext): Promise<void> {
  if (kind === "broadcast") {
    const outcome = result.ok ? "sent" : result.error.code;
    await context.commit({ writes: [["HINCRBY", broadcastCounts(id), outcome, 1]] });
  }
}

/** Of these two; begun when there is none. */
async function directConversation({ conversations }: Chat, by: string, user: string): Promise<string> {
  const { conversation } = await conversations.create(by, { type: "direct", members: [user] });
  return conversation.id;
}
