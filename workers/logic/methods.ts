/** The table RPC method -> im function, nothing else. */

import type { Clock } from "../../lib/clock.ts";
import { AppError } from "../../lib/errors.ts";
import {
  attach,
  createAmendments,
  createBlocks,
  createChannels,
  createCommitter,
  createConversations,
  createDevices,
  createHidden,
  createInbox,
  createMutes,
  createNotifier,
  createPresence,
  createRouteCache,
  createTimeline,
  delivered,
  detach,
  history,
  type LogicContract,
  listConversations,
  notification,
  type ReadArchive,
  read,
  receipts,
  type SearchArchive,
  search,
  send,
  sync,
  typing,
} from "../../lib/im/index.ts";
import type { Metrics } from "../../lib/observability/index.ts";
import { type Keys, type RedisClient, toAppError } from "../../lib/redis/index.ts";
import type { Handlers, Outcome } from "../../lib/rpc/index.ts";

interface MethodParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly replicas: number;
  readonly makeRoom: (partition: number) => Promise<void>;
  readonly recallMs: number;
  readonly readArchive: ReadArchive;
  readonly searchArchive: SearchArchive;
  readonly status: () => Promise<{ ackLevel: string; redis: string }>;
}

export function createMethods({
  redis,
  keys,
  clock,
  metrics,
  replicas,
  makeRoom,
  recallMs,
  readArchive,
  searchArchive,
  status,
}: MethodParts): Handlers<LogicContract> {
  const committer = createCommitter({ redis, keys, clock, metrics, replicas, makeRoom });
  const channels = createChannels(redis, keys);
  const inbox = createInbox(redis, keys, channels);
  const conversations = createConversations({ redis, keys, clock, inbox, channels });
  const timeline = createTimeline(redis, keys, readArchive);
  const hidden = createHidden(redis, keys);
  const mutes = createMutes(redis, keys, clock);
  const blocks = createBlocks(redis, keys, clock);
  const amendments = createAmendments({ redis, keys, clock, conversations, timeline, recallMs });
  const presence = createPresence(redis, keys, clock, blocks);
  const devices = createDevices(redis, keys);
  const notifier = createNotifier(
    redis,
    keys,
    createRouteCache(redis, keys, () => undefined),
  );
  const nothing = {};

  /** Out of the caller's own sight; the caller's other devices hear of it. */
  async function hide(by: string, conversation: string, seq: number, connection: string | undefined): Promise<void> {
    const state = await conversations.state(by, conversation);
    if (!state) throw new AppError("NOT_MEMBER");
    const found = await timeline.at(conversation, state.epoch, seq);
    if (found?.kind !== "message") throw new AppError("NOT_FOUND", "There is no such message");
    await hidden.add(by, conversation, seq);
    const frame = notification("message.hidden", JSON.stringify({ conversation, seq }));
    await notifier.toUsers([by], frame, connection);
  }

  return guarded({
    send: (inputs) => Promise.all(inputs.map((input) => send(committer, clock, metrics, input))),
    attach: (inputs) =>
      each(inputs, async (route) => {
        const isNewlyOnline = await attach(redis, keys, clock, route);
        if (isNewlyOnline) await presence.tell({ user: route.user, online: true, lastSeen: clock.now() });
        return { channels: await channels.heardBy(route.user, route.gateway) };
      }),
    detach: (inputs) =>
      each(inputs, async ({ user, connection }) => {
        await detach(redis, keys, user, connection);
        return nothing;
      }),
    createConversation: ({ by, params }) => conversations.create(by, params),
    getConversation: async ({ by, params }) => ({ conversation: await conversations.get(by, params.conversation) }),
    listConversations: ({ by, params }) =>
      listConversations({ conversations, inbox, hidden, mutes }, by, params.limit, params.before),
    updateConversation: async ({ by, params }) => ({
      conversation: await conversations.change(by, params.conversation, params),
    }),
    dissolveConversation: async ({ by, params }) => {
      await conversations.dissolve(by, params.conversation);
      return nothing;
    },
    addMembers: async ({ by, params }) => ({
      conversation: await conversations.add(by, params.conversation, params.users),
    }),
    removeMember: async ({ by, params }) => {
      await conversations.remove(by, params.conversation, params.user);
      return nothing;
    },
    updateMember: async ({ by, params: { conversation, user, role, mutedUntil } }) => ({
      conversation: await conversations.update(by, conversation, user, {
        ...(role === undefined ? {} : { role }),
        ...(mutedUntil === undefined ? {} : { mutedUntil }),
      }),
    }),
    edit: async ({ by, params }) => ({ message: await amendments.edit(by, params, params.body) }),
    async recall({ by, params, connection }) {
      if (params.for === "everyone") return { message: await amendments.recall(by, params) };
      await hide(by, params.conversation, params.seq, connection);
      return nothing;
    },
    react: async ({ by, params }) => ({ message: await amendments.react(by, params, params.emoji, params.on) }),
    async muteConversation({ by, params: { conversation, until }, connection }) {
      if (!(await conversations.state(by, conversation))) throw new AppError("NOT_MEMBER");
      await mutes.set(by, conversation, until);
      const [mutedUntil] = await mutes.of(by, [conversation]);
      const shown = mutedUntil === undefined ? {} : { mutedUntil };
      const frame = notification("conversation.muted", JSON.stringify({ conversation, ...shown }));
      await notifier.toUsers([by], frame, connection);
      return shown;
    },
    delivered: ({ by, params }) => delivered({ redis, keys, notifier }, by, params.conversation, params.seq),
    receipts: ({ by, params }) => receipts({ redis, keys, conversations }, by, params.conversation),
    async typing({ by, params }) {
      await typing({ redis, keys, notifier }, by, params.conversation, params.on);
      return nothing;
    },
    watchPresence: ({ by, params, gateway }) => presence.watch(by, params.users, gateway),
    async renewWatches({ users, gateway }) {
      await presence.renew(users, gateway);
      return nothing;
    },
    listDevices: async ({ by }) => ({ devices: await devices.list(by) }),
    async removeDevice({ by, params }) {
      await devices.remove(by, params.device);
      return nothing;
    },
    listBlocks: async ({ by }) => ({ blocks: await blocks.list(by) }),
    async addBlock({ by, params }) {
      const block = await blocks.add(by, params.user);
      await presence.hide(by, params.user);
      return block;
    },
    async removeBlock({ by, params }) {
      await blocks.remove(by, params.user);
      return nothing;
    },
    history: ({ by, params }) => history({ conversations, timeline, hidden }, by, params),
    search: ({ by, params }) => search({ redis, keys, inbox, hidden, timeline, searchArchive }, by, params),
    sync: ({ by, params }) => sync({ conversations, inbox, timeline, hidden }, by, params.cursors),
    read: ({ by, params }) =>
      read({ redis, keys, clock, conversations, timeline }, by, params.conversation, params.seq),
    status,
  });
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

/** Every handler rejects with an AppError: what Redis said becomes OVERLOADED, UNKNOWN_OUTCOME or INTERNAL here, once. */
function guarded(handlers: Handlers<LogicContract>): Handlers<LogicContract> {
  const wrapped = Object.entries(handlers).map(([method, handler]) => {
    const call = handler as (input: unknown, context: unknown) => Promise<unknown>;
    const guardedCall = (input: unknown, context: unknown) =>
      call(input, context).catch((error: unknown) => {
        throw toAppError(error);
      });
    return [method, guardedCall];
  });
  return Object.fromEntries(wrapped) as Handlers<LogicContract>;
}
