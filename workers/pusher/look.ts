/**
 * What a user should be told of a conversation now, if a seq of it is to be told at all: its newest unread message, as it is by
 * now. Asked when a burst is over and before each try of a push, so a message that was read, edited or recalled meanwhile is
 * told as it is, and a push that comes late, after an hour's Retry-After, takes no newer one's place on the screen.
 *
 * Nothing is told to who has read up to the seq, has muted the conversation, or is no member; and of no message that is
 * recalled, his own, deleted by him for himself, or from somebody whom he has blocked.
 */

import type { Clock } from "../../lib/clock.ts";
import {
  conversationState,
  createBlocks,
  createHidden,
  createMutes,
  createTimeline,
  FOLDED_PARTS,
  foldedMessage,
  type Message,
  type ReadArchive,
} from "../../lib/im/index.ts";
import type { Keys, RedisClient } from "../../lib/redis/index.ts";
import type { Notification } from "./provider.ts";

/** The newest that may be told is looked for among so many: of a flood by somebody blocked nothing is told. */
const MESSAGES_LOOKED_AT = 20;
/** Of a message whose body has no text: an app shows it in its own words, by `conversation` and `seq`. */
const NO_TEXT = "New message";

export interface LookParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly readArchive: ReadArchive;
}

/** Undefined: nothing. Texts are not cut. Throws Redis errors, and OVERLOADED when the archive is needed and away. */
export type Look = (user: string, conversation: string, seq: number) => Promise<Told | undefined>;
export type Told = Omit<Notification, "expiresAt">;

export function createLook({ readArchive, ...parts }: LookParts): Look {
  const { redis, keys, clock } = parts;
  const conversations = {
    state: (user: string, conversation: string) => conversationState(redis, keys, user, conversation),
  };
  const timeline = createTimeline(redis, keys, readArchive);
  const mutes = createMutes({ ...parts, conversations });
  const hidden = createHidden({ ...parts, conversations, timeline });
  const blocks = createBlocks(redis, keys, clock);

  /** The newest of them that the user may be told of. */
  async function newest(user: string, messages: readonly Message[]): Promise<Message | undefined> {
    const isHidden = await hidden.among(user, messages);
    for (let i = messages.length - 1; i >= 0; i--) {
      const message = messages[i]!;
      if (message.recalledAt !== undefined || message.from === user || isHidden[i]) continue;
      if (!(await blocks.has(user, message.from))) return message;
    }
    return undefined;
  }

  return async (user, conversation, seq) => {
    const [state, [mutedUntil]] = await Promise.all([
      conversations.state(user, conversation),
      mutes.of(user, [conversation]),
    ]);
    if (!state || mutedUntil !== undefined || state.read >= seq) return undefined;
    const entries = await timeline.read({
      ...{ conversation, epoch: state.epoch, after: state.read, before: state.head + 1, limit: MESSAGES_LOOKED_AT },
      ...{ newest: true, messagesOnly: true, parts: FOLDED_PARTS },
    });
    const message = await newest(
      user,
      entries.map(({ record, parts }) => foldedMessage(record, parts)),
    );
    if (!message) return undefined;
    const { text } = message.body as { text?: unknown };
    const said = typeof text === "string" ? text : NO_TEXT;
    return {
      id: message.id,
      conversation,
      seq: message.seq,
      title: state.title || message.from,
      text: state.type === "direct" ? said : `${message.from}: ${said}`,
      unread: state.unread,
    };
  };
}
