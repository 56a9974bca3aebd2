/** The group `logic` of im.reminders: tells users of what is due, and has those woken whom nothing reached. */

import { type Chat, imPush, imReminders } from "../../lib/im/index.ts";
import type { Queue } from "../../lib/mq/index.ts";
import type { Service } from "../../lib/service.ts";

/** What a notice shows above the reminder's own text. */
const TITLE = "Reminder";

export function createReminderConsumer({ reminders }: Chat, queue: Queue): Service {
  return queue.consume(imReminders, {
    group: "logic",
    mode: "ordered",
    async handle({ id: record, data: { user, id } }, context) {
      const unheard = await reminders.fire(user, id, record);
      if (!unheard) return;
      const { text, conversation, seq } = unheard;
      const notice = { id: record, users: [user], title: TITLE, text, conversation, seq };
      // With the ack: one push, however often it is told.
      await context.commit({
        publish: [{ topic: imPush, input: { type: "im.push.notice", key: user, data: notice } }],
      });
    },
  });
}
