/** Routes of groups: declare. */

import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import { checkOutboundUrl } from "../../lib/http/outbound.ts";
import { type DeclaredGroup, GroupSettingsSchema, type Queue } from "../../lib/mq/index.ts";
import { assertMayOwn, Name } from "./service-inputs.ts";
import { consumerOrAdmin, type ServiceRoute, serviceRoute } from "./service-route.ts";

export interface GroupParts {
  readonly queue: Queue;
  /** SKEIN_OUTBOUND_PRIVATE: what a webhook's URL may be. */
  readonly allowPrivate: boolean;
}

const { webhook: _webhook, ...openSettings } = GroupSettingsSchema.entries;
const GroupReply = v.strictObject({
  topic: v.string(),
  group: v.string(),
  ...openSettings,
  webhook: v.optional(v.strictObject({ url: v.string() })),
  created: v.number(),
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
        return c.json(showGroup(declared), declared.isNew ? 201 : 200);
      },
    ),
  ];
}

/** Without the secret. */
function showGroup({ topic, group, settings, created }: DeclaredGroup) {
  const { webhook, ...open } = settings;
  return { topic, group, ...open, ...(webhook ? { webhook: { url: webhook.url } } : {}), created };
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
