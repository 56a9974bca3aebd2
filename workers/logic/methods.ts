/** The table RPC method -> im function, nothing else. */

import { AppError } from "../../lib/errors.ts";
import { newId } from "../../lib/id.ts";
import {
  attach,
  awaitReplicas,
  type Chat,
  delivered,
  detach,
  type Erasures,
  history,
  type LogicContract,
  listConversations,
  notification,
  type RegisterPushParams,
  type RegisterPushReply,
  read,
  receipts,
  type SearchArchive,
  search,
  send,
  sync,
  typing,
} from "../../lib/im/index.ts";
import { toAppError } from "../../lib/redis/index.ts";
import type { Handlers, Outcome } from "../../lib/rpc/index.ts";

type LogicHandlers = Handlers<LogicContract>;

interface MethodParts {
  readonly chat: Chat;
  readonly searchArchive: SearchArchive;
  readonly erasures: Erasures;
  readonly registerPush: (user: string, params: RegisterPushParams) => Promise<RegisterPushReply>;
  /** What browsers subscribe with. */
  readonly pushPublicKey: string;
  readonly status: () => Promise<{ ackLevel: string; redis: string }>;
}

export function createMethods({
  chat,
  searchArchive,
  registerPush,
  pushPublicKey,
  erasures,
  status,
}: MethodParts): LogicHandlers {
  return guarded(chat, erasures, {
    ...{
      ...ofRoutes(chat, erasures),
      ...ofErasures(erasures),
      ...ofConversations(chat),
      ...ofMessages(chat),
      ...ofOneself(chat),
      ...ofAgenda(chat),
    },
    search: ({ by, params }) => search({ ...chat, searchArchive }, by, params),
    registerPush: ({ by, params }) => registerPush(by, params),
    pushKey: async () => ({ publicKey: pushPublicKey }),
    status,
  });
}

const NOTHING = {};

/** Where connections are, and what passes between them. */
function ofRoutes(chat: Chat, erasures: Erasures) {
  const { redis, keys, clock, presence, channels } = chat;
  return {
    attach: (inputs) =>
      each(inputs, async (route) => {
        const isNewlyOnline = await attach(redis, keys, clock, route);
        // Looked at behind the write: either this sees the erasure, or the erasure the route.
        if (await erasures.has(route.user)) {
          await detach(redis, keys, route.user, route.connection);
          throw new AppError("UNAUTHENTICATED", "The user was erased");
        }
        if (isNewlyOnline) await presence.tell({ user: route.user, online: true, lastSeen: clock.now() });
        return { channels: await channels.heardBy(route.user, route.gateway) };
      }),
    detach: (inputs) =>
      each(inputs, async ({ user, connection }) => {
        await detach(redis, keys, user, connection);
        return NOTHING;
      }),
    async typing({ by, params }) {
      await typing(chat, by, params.conversation, params.on);
      return NOTHING;
    },
    watchPresence: ({ by, params, gateway }) => presence.watch(by, params.users, gateway),
    async renewWatches({ users, gateway }) {
      await presence.renew(users, gateway);
      return NOTHING;
    },
  } satisfies Partial<LogicHandlers>;
}

function ofErasures(erasures: Erasures) {
  const report = async (user: string) => {
    const found = await erasures.report(user);
    if (!found) throw new AppError("NOT_FOUND", "No erasure of this user is known");
    return found;
  };
  return {
    async eraseUser({ user }) {
      await erasures.begin(user);
      return report(user);
    },
    getErasure: ({ user }) => report(user),
  } satisfies Partial<LogicHandlers>;
}

function ofConversations(chat: Chat) {
  const { conversations } = chat;
  return {
    createConversation: ({ by, params }) => conversations.create(by, params),
    getConversation: async ({ by, params }) => ({ conversation: await conversations.get(by, params.conversation) }),
    listConversations: ({ by, params }) => listConversations(chat, by, params.limit, params.before),
    updateConversation: async ({ by, params }) => ({
      conversation: await conversations.change(by, params.conversation, params),
    }),
    async dissolveConversation({ by, params }) {
      await conversations.dissolve(by, params.conversation);
      return NOTHING;
    },
    addMembers: async ({ by, params }) => ({
      conversation: await conversations.add(by, params.conversation, params.users),
    }),
    async removeMember({ by, params }) {
      await conversations.remove(by, params.conversation, params.user);
      return NOTHING;
    },
    updateMember: async ({ by, params: { conversation, user, ...change } }) => ({
      conversation: await conversations.update(by, conversation, user, change),
    }),
  } satisfies Partial<LogicHandlers>;
}

function ofMessages(chat: Chat) {
  const { amendments, review, hidden, notifier } = chat;
  return {
    send: (inputs) => Promise.all(inputs.map((input) => send(chat, input))),
    async edit({ by, params }) {
      const { conversation, seq, body } = params;
      const draft = { action: "edit", by, conversation, seq, body, id: newId(chat.clock.now()) } as const;
      return { message: await review.pass(draft, (passed) => amendments.edit(by, params, passed)) };
    },
    async recall({ by, params, connection }) {
      if (params.for === "everyone") return { message: await amendments.recall(by, params) };
      const { conversation, seq } = params;
      await hidden.add(by, conversation, seq);
      const frame = notification("message.hidden", JSON.stringify({ conversation, seq }));
      await notifier.toUsers([by], frame, connection);
      return NOTHING;
    },
    react: async ({ by, params }) => ({ message: await amendments.react(by, params, params.emoji, params.on) }),
    history: ({ by, params }) => history(chat, by, params),
    sync: ({ by, params }) => sync(chat, by, params.cursors),
    read: ({ by, params }) => read(chat, by, params.conversation, params.seq),
    delivered: ({ by, params }) => delivered(chat, by, params.conversation, params.seq),
    receipts: ({ by, params }) => receipts(chat, by, params.conversation),
  } satisfies Partial<LogicHandlers>;
}

/** What is the user's own. */
function ofOneself({ mutes, blocks, devices, pushDevices, presence, notifier }: Chat) {
  return {
    async muteConversation({ by, params: { conversation, until }, connection }) {
      const mutedUntil = await mutes.set(by, conversation, until);
      const shown = mutedUntil === undefined ? {} : { mutedUntil };
      const frame = notification("conversation.muted", JSON.stringify({ conversation, ...shown }));
      await notifier.toUsers([by], frame, connection);
      return shown;
    },
    listBlocks: async ({ by }) => ({ blocks: await blocks.list(by) }),
    async addBlock({ by, params }) {
      const block = await blocks.add(by, params.user);
      await presence.hide(by, params.user);
      return block;
    },
    async removeBlock({ by, params }) {
      await blocks.remove(by, params.user);
      return NOTHING;
    },
    listDevices: async ({ by }) => ({ devices: await devices.list(by) }),
    async removeDevice({ by, params }) {
      await devices.remove(by, params.device);
      return NOTHING;
    },
    async removePush({ by, params }) {
      await pushDevices.remove(by, params.device);
      return NOTHING;
    },
  } satisfies Partial<LogicHandlers>;
}

/** What the user has put off. */
function ofAgenda(chat: Chat) {
  const { scheduled, reminders } = chat;
  return {
    async schedule(input) {
      const reply = await scheduled.schedule(input);
      if (reply) return reply;
      const sent = await send(chat, input);
      if (!sent.ok) throw sent.error;
      return sent.value;
    },
    listScheduled: ({ by, params }) => scheduled.list(by, params),
    moveScheduled: async ({ by, params }) => ({ result: await scheduled.move(by, params.id, params.at) }),
    cancelScheduled: async ({ by, params }) => ({ result: await scheduled.cancel(by, params.id) }),
    createReminder: async ({ by, params }) => ({ reminder: await reminders.create(by, params) }),
    listReminders: ({ by, params }) => reminders.list(by, params),
    moveReminder: async ({ by, params }) => ({ result: await reminders.move(by, params.id, params.at) }),
    snoozeReminder: async ({ by, params }) => ({ result: await reminders.snooze(by, params.id, params.at) }),
    cancelReminder: async ({ by, params }) => ({ result: await reminders.cancel(by, params.id) }),
  } satisfies Partial<LogicHandlers>;
}

/** A batch whose items succeed or fail one by one. */
function each<T, R>(inputs: readonly T[], act: (input: T) => Promise<R>): Promise<Outcome<R>[]> {
  return Promise.all(
    inputs.map((input) =>
      act(input).then(
        (value) => ({ ok: true, value }) as const,
        (error: unknown) => ({ ok: false, error: toAppError(error) }) as const,
      ),
    ),
  );
}

/** What leaves nothing that a caller counts on; `send` waits for its replicas in the commit. */
const PASSING: readonly (keyof LogicHandlers)[] = [
  ...(["send", "attach", "detach", "typing", "watchPresence", "renewWatches", "delivered", "status"] as const),
  ...(["history", "search", "sync", "receipts", "getConversation", "listConversations", "getErasure"] as const),
  ...(["listDevices", "listBlocks", "pushKey", "listScheduled", "listReminders"] as const),
];

/**
 * What needs no conversation to begin. Gateways take no call of an erased user, but one that a process had in hand while it stood still
 * comes behind his erasure, which would find nothing more of him to remove.
 */
const BEGINNING: readonly (keyof LogicHandlers)[] = ["addBlock", "createReminder", "registerPush"];

async function refuseErased(erasures: Erasures, input: unknown): Promise<void> {
  const { by, params } = input as { by: string; params: { user?: string } };
  if (await erasures.has(by)) throw new AppError("UNAUTHENTICATED", "The user was erased");
  if (params.user === undefined || !(await erasures.has(params.user))) return;
  const message = "was erased";
  throw new AppError("INVALID", `user ${message}`, { issues: [{ path: "user", message }] });
}

/**
 * Every handler rejects with an AppError: what Redis said becomes OVERLOADED, UNKNOWN_OUTCOME or INTERNAL here, once. At `replicated`
 * one that changes something answers when the replicas have it.
 */
function guarded({ redis, replicas }: Chat, erasures: Erasures, handlers: LogicHandlers): LogicHandlers {
  const wrapped = Object.entries(handlers).map(([method, handler]) => {
    const call = handler as (input: unknown, context: unknown) => Promise<unknown>;
    const isPassing = (PASSING as readonly string[]).includes(method);
    const isBeginning = (BEGINNING as readonly string[]).includes(method);
    const guardedCall = async (input: unknown, context: unknown) => {
      try {
        if (isBeginning) await refuseErased(erasures, input);
        const reply = await call(input, context);
        if (!isPassing) await awaitReplicas(redis, replicas);
        return reply;
      } catch (error) {
        throw toAppError(error);
      }
    };
    return [method, guardedCall];
  });
  return Object.fromEntries(wrapped) as LogicHandlers;
}
