/** Routes of groups: declare, and what an operator orders of them. */

import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import { invalid } from "../../lib/http/index.ts";
import { checkOutboundUrl } from "../../lib/http/outbound.ts";
import {
  type DeclaredGroup,
  GroupSettingsSchema,
  type KeyAside,
  type Queue,
  type StartPoint,
  StartSchema,
  toStartPoint,
} from "../../lib/mq/index.ts";
import { assertMayOperate, assertMayOwn, Key, Name, Time } from "./service-inputs.ts";
import { consumerOrAdmin, type ServiceRoute, serviceRoute } from "./service-route.ts";

export interface GroupParts {
  readonly queue: Queue;
  /** SKEIN_OUTBOUND_PRIVATE: what a webhook's URL may be. */
  readonly allowPrivate: boolean;
}

const { webhook: _webhook, ...openEntries } = GroupSettingsSchema.entries;
/** The settings of a group, without the secret. */
export const OpenSettings = v.strictObject({
  ...openEntries,
  webhook: v.optional(v.strictObject({ url: v.string() })),
  created: v.number(),
});
const GroupReply = v.strictObject({ topic: v.string(), group: v.string(), ...OpenSettings.entries });

const OfGroup = { topic: Name, group: Name };
const Done = v.strictObject({ result: v.literal("ok") });
const SEEK_MESSAGE =
  "must be first, latest, time (with time), id (with id), a time in Unix ms, an entry id, {time} or {id}";
const SeekParams = v.strictObject({
  ...OfGroup,
  to: v.union([v.picklist(["time", "id"]), StartSchema], SEEK_MESSAGE),
  time: v.optional(Time),
  id: v.optional(v.string()),
});
const PauseParams = v.strictObject({
  ...OfGroup,
  reason: v.optional(v.pipe(v.string(), v.maxLength(200, "must be at most 200 characters"))),
});

const KeyReply = v.strictObject({
  key: v.string(),
  /** `ready` to be tried (again) when it is due, in the `hand` of a member, `out` at a service, or `parked`. */
  state: v.picklist(["ready", "hand", "out", "parked"]),
  since: v.number(),
  messages: v.number(),
  attempts: v.number(),
});

export function groupRoutes({ queue, allowPrivate }: GroupParts): readonly ServiceRoute[] {
  const one = "/v1/topics/:topic/groups/:group";
  return [
    serviceRoute(
      "put",
      one,
      {
        summary: "Declare a group, or replace its settings; its mode stays",
        scopes: consumerOrAdmin,
        input: v.strictObject({ topic: Name, group: Name, ...GroupSettingsSchema.entries }),
        replies: { 201: GroupReply, 200: GroupReply },
      },
      async ({ c, params: { topic, group, ...settings } }) => {
        assertMayOwn(topic, group);
        if (settings.webhook) checkWebhookUrl(settings.webhook.url, allowPrivate);
        const declared = await queue.catalog.declareGroup(topic, group, settings);
        return c.json({ topic, group, ...openSettingsOf(declared) }, declared.isNew ? 201 : 200);
      },
    ),
    serviceRoute(
      "post",
      `${one}/seek`,
      {
        summary: "Set a group to another place: it is given again what lies behind, and not what lies before",
        scopes: consumerOrAdmin,
        input: SeekParams,
        replies: { 200: Done },
      },
      async ({ c, caller, params }) => {
        assertMayOperate(caller, params.topic, params.group);
        const to = placeOf(params);
        await queue.control.seek(await queue.catalog.topicOf(params.topic), params.group, to);
        return c.json({ result: "ok" });
      },
    ),
    serviceRoute(
      "post",
      `${one}/pause`,
      {
        summary: "Pause a group: nothing more is handed out within a second",
        scopes: consumerOrAdmin,
        input: PauseParams,
        mayLackBody: true,
        replies: { 200: Done },
      },
      async ({ c, caller, params: { topic, group, reason } }) => {
        assertMayOperate(caller, topic, group);
        await queue.control.pause(await queue.catalog.topicOf(topic), group, reason);
        return c.json({ result: "ok" });
      },
    ),
    serviceRoute(
      "post",
      `${one}/resume`,
      {
        summary: "Let a paused group go on",
        scopes: consumerOrAdmin,
        input: v.strictObject(OfGroup),
        mayLackBody: true,
        replies: { 200: Done },
      },
      async ({ c, caller, params: { topic, group } }) => {
        assertMayOperate(caller, topic, group);
        await queue.control.resume(await queue.catalog.topicOf(topic), group);
        return c.json({ result: "ok" });
      },
    ),
    serviceRoute(
      "get",
      `${one}/aside`,
      {
        summary: "Keys that cannot go on now: parked, waiting for a retry, or in somebody's hands",
        scopes: consumerOrAdmin,
        input: v.strictObject(OfGroup),
        replies: { 200: v.strictObject({ keys: v.array(KeyReply) }) },
      },
      async ({ c, caller, params: { topic, group } }) => {
        assertMayOperate(caller, topic, group);
        const found = await queue.aside.list(await queue.catalog.topicOf(topic), group);
        return c.json({ keys: found.map(showKey) });
      },
    ),
    serviceRoute(
      "post",
      `${one}/unpark`,
      {
        summary:
          "Let a parked key go on: its messages are handed out in order, the first with all its attempts before it",
        scopes: consumerOrAdmin,
        input: v.strictObject({ ...OfGroup, key: Key }),
        replies: { 200: v.strictObject({ result: v.picklist(["ok", "not_found"]) }) },
      },
      async ({ c, caller, params: { topic, group, key } }) => {
        assertMayOperate(caller, topic, group);
        return c.json({ result: await queue.aside.unpark(await queue.catalog.topicOf(topic), group, key) });
      },
    ),
  ];
}

/** Throws INVALID when `to` names a field that is missing, or one is given that it does not name. */
function placeOf({ to, time, id }: v.InferOutput<typeof SeekParams>): StartPoint {
  if (to !== "time" && time !== undefined) throw invalid("time", "is of to: time only");
  if (to !== "id" && id !== undefined) throw invalid("id", "is of to: id only");
  if (to === "time") {
    if (time === undefined) throw invalid("time", "is required");
    return { time };
  }
  if (to === "id") {
    const entry = v.safeParse(StartSchema, { id });
    if (!entry.success) throw invalid("id", "must be an entry id, <ms>-<count>");
    return toStartPoint(entry.output);
  }
  return toStartPoint(to);
}

function showKey({ key, state, sinceMs, messages, failed }: KeyAside) {
  return { key, state, since: sinceMs, messages, attempts: failed };
}

export function openSettingsOf({ settings, created }: DeclaredGroup) {
  const { webhook, ...open } = settings;
  return { ...open, ...(webhook ? { webhook: { url: webhook.url } } : {}), created };
}

function checkWebhookUrl(url: string, allowPrivate: boolean): void {
  try {
    checkOutboundUrl(url, { allowPrivate });
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    const issues = (error.issues ?? []).map(({ message }) => ({ path: "webhook.url", message }));
    throw new AppError(error.code, `webhook.${error.message}`, { issues });
  }
}
