/**
 * A user's conversations by their last activity. The inbox index says which; what is shown of each is read from the conversation
 * itself, so a list is never older than its conversations.
 */

import type { ConversationState, Conversations } from "./conversations.ts";
import type { Hidden } from "./hidden.ts";
import type { Inbox } from "./inbox.ts";
import type { Mutes } from "./mutes.ts";
import type { ConversationSummary } from "./protocol.ts";

export interface ListParts {
  readonly conversations: Conversations;
  readonly inbox: Inbox;
  readonly hidden: Hidden;
  readonly mutes: Mutes;
}

/** Newest activity first. `before` is the `next` of the page before. */
export async function listConversations(
  { conversations, inbox, hidden, mutes }: ListParts,
  user: string,
  limit: number,
  before?: string,
): Promise<{ conversations: ConversationSummary[]; next?: string }> {
  const { conversations: ids, next } = await inbox.page(user, limit, before);
  const states = await Promise.all(ids.map((id) => conversations.state(user, id)));
  const found = ids.flatMap((id, i) => {
    const state = states[i];
    return state ? [{ id, state }] : [];
  });
  // The index may lag behind by what the inbox group has not read yet; within the page the truth orders.
  found.sort((a, b) => b.state.activeMs - a.state.activeMs);
  const last = found.map(({ id, state }) => ({ conversation: id, seq: state.lastMessage?.seq ?? 0 }));
  const shownIds = found.map(({ id }) => id);
  const [isHidden, mutedUntil] = await Promise.all([hidden.among(user, last), mutes.of(user, shownIds)]);
  return {
    conversations: found.map(({ id, state }, i) => toSummary(id, state, isHidden[i]!, mutedUntil[i])),
    ...(next === undefined ? {} : { next }),
  };
}

function toSummary(
  id: string,
  state: ConversationState,
  isHidden: boolean,
  mutedUntil: number | undefined,
): ConversationSummary {
  const { type, title, epoch, head, read, unread, lastMessage } = state;
  const shown = isHidden ? undefined : lastMessage;
  return {
    id,
    type,
    title,
    epoch,
    head,
    read,
    unread,
    ...(mutedUntil === undefined ? {} : { mutedUntil }),
    ...(shown === undefined ? {} : { lastMessage: shown }),
  };
}
