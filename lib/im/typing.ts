/**
 * That a member is typing: told to the other members' connections and kept nowhere. In conversations with many members nobody is
 * told. It ends by itself: gateways say so for their connections, and clients take it as over when nothing is heard for a while.
 */

import { AppError, type ErrorCode } from "../errors.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import audienceLua from "../redis/lua/im-audience.lua" with { type: "text" };
import stateLua from "../redis/lua/im-state.lua" with { type: "text" };
import { type Notifier, notification } from "./notify.ts";
import { rightsOf } from "./permissions.ts";
import { LIMITS } from "./protocol.ts";

const findAudience = defineScript({
  name: "imAudience",
  lua: [stateLua, audienceLua],
  keys: ["conv", "members"],
  args: ["user", "rights", "sizeMax"],
  decode: (reply) => reply as string | string[],
});

const REFUSALS: Record<string, readonly [ErrorCode, string?]> = {
  NOT_MEMBER: ["NOT_MEMBER"],
  MUTED: ["MUTED"],
  BLOCKED: ["FORBIDDEN", "The other user takes no messages from you"],
  FORBIDDEN: ["FORBIDDEN"],
  DISSOLVED: ["FORBIDDEN", "The conversation is dissolved"],
};

export interface TypingParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly notifier: Notifier;
}

/** Who may not speak may not be seen typing: NOT_MEMBER, MUTED, FORBIDDEN. */
export async function typing(
  { notifier, ...parts }: TypingParts,
  user: string,
  conversation: string,
  on: boolean,
): Promise<void> {
  const audience = await audienceOf(parts, user, conversation, LIMITS.receiptMembers);
  await notifier.toUsers(audience, notification("typing", JSON.stringify({ conversation, user, on })));
}

/** Whether the user may speak there as of now: NOT_MEMBER, MUTED, FORBIDDEN. What he then says is judged anew. */
export async function assertMaySpeak(parts: Omit<TypingParts, "notifier">, user: string, conversation: string) {
  await audienceOf(parts, user, conversation, 0);
}

async function audienceOf(
  { redis, keys }: Omit<TypingParts, "notifier">,
  user: string,
  conversation: string,
  sizeMax: number,
): Promise<string[]> {
  const audience = await findAudience(redis, {
    conv: keys.conversation(conversation),
    members: keys.members(conversation),
    user,
    rights: rightsOf("speak"),
    sizeMax,
  });
  if (typeof audience === "string") {
    const [error, detail] = REFUSALS[audience] ?? (["INTERNAL"] as const);
    throw new AppError(error, detail);
  }
  return audience;
}
