/** What the server tells, sorted: to the timelines what has a place in one, to the app what has none. */

import type { Events } from "./events.ts";
import type { Entry, Message } from "./model.ts";
import type { Passing } from "./passing.ts";
import type { Timelines } from "./timeline.ts";
import type { ConversationNotice, Notification } from "./wire.ts";

export interface ArrivalParts {
  readonly timelines: Timelines;
  readonly passing: Passing;
  readonly events: Events;
  /** Who the session's user is. */
  user(): string;
}

/** Takes every notification but `session.closing`, which is the socket's. Those of a newer server are passed over. */
export function createArrivals({ timelines, passing, events, user }: ArrivalParts) {
  /** An entry that takes the user in begins the timeline for this client; one that takes the user out ends it. */
  function placed(conversation: string, epoch: string, entry: Entry): void {
    const isAboutMe = entry.kind === "member" && entry.users.includes(user());
    if (isAboutMe && (entry.action === "removed" || entry.action === "left")) {
      if (timelines.leave(conversation, entry.seq)) events.emit("member", { conversation, entry });
      return;
    }
    if (isAboutMe && entry.action === "added") timelines.follow({ conversation, epoch, seq: entry.seq - 1 });
    timelines.live(conversation, entry);
  }

  function ofConversation({ conversation, entry }: ConversationNotice): void {
    const { id, epoch, head } = conversation;
    timelines.compare(conversation);
    // Without an entry it is a conversation that begins, for all its members.
    if (entry) placed(id, epoch, entry);
    else timelines.follow({ conversation: id, epoch, seq: head });
    events.emit("conversation", { conversation });
  }

  return (notification: Notification): void => {
    switch (notification.method) {
      case "message": {
        const { message } = notification.params;
        timelines.live(message.conversation, messageEntry(message));
        break;
      }
      case "message.edited":
      case "message.recalled":
      case "message.reaction":
      case "member":
        placed(notification.params.conversation, "", notification.params.entry);
        break;
      case "conversation":
        ofConversation(notification.params);
        break;
      case "message.hidden":
        events.emit("hidden", notification.params);
        break;
      case "conversation.muted":
        events.emit("muted", notification.params);
        break;
      case "reminder":
        events.emit("reminder", notification.params);
        break;
      case "scheduled":
        events.emit("scheduled", notification.params);
        break;
      case "read":
      case "delivered":
        events.emit(notification.method, notification.params);
        break;
      case "typing":
        passing.onTyping(notification.params);
        break;
      case "presence":
        events.emit("presence", notification.params);
        break;
      case "session.resync":
        timelines.catchUpAll();
    }
  };
}

/** Tells the app of an entry whose turn has come. */
export function tellEntry(events: Events, conversation: string, entry: Entry): void {
  events.emit("entry", { conversation, entry });
  switch (entry.kind) {
    case "message":
      events.emit("message", { message: entry.message });
      break;
    case "edit":
      events.emit("edited", { conversation, entry });
      break;
    case "recall":
      events.emit("recalled", { conversation, entry });
      break;
    case "reaction":
      events.emit("reaction", { conversation, entry });
      break;
    case "member":
      events.emit("member", { conversation, entry });
      break;
    case "settings":
      events.emit("settings", { conversation, entry });
  }
}

export function messageEntry(message: Message): Entry {
  return { kind: "message", seq: message.seq, id: message.id, message };
}
