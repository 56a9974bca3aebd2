/** A process of the queue's bench: publishes or consumes as its parent tells it (mq-contract.ts), so that CPU time is told apart. */

import { consumeFromBullmq, publishToBullmq } from "./mq-bullmq.ts";
import type { ConsumeOrder, Consumer, Kind, MqCommand, MqEvent, Publisher, PublishOrder } from "./mq-contract.ts";
import { consumeRaw, publishRaw } from "./mq-raw.ts";
import { consumeFromSkein, publishToSkein } from "./mq-skein.ts";

const PUBLISHERS: Readonly<Record<Kind, (order: PublishOrder) => Promise<Publisher>>> = {
  raw: publishRaw,
  skein: publishToSkein,
  bullmq: publishToBullmq,
};
const CONSUMERS: Readonly<Record<Kind, (order: ConsumeOrder) => Promise<Consumer>>> = {
  raw: consumeRaw,
  skein: consumeFromSkein,
  bullmq: consumeFromBullmq,
};

const tell = (event: MqEvent) => process.send?.(event);
let publish: Publisher | undefined;
let consume: (() => Promise<void>) | undefined;

async function obey(command: MqCommand): Promise<void> {
  switch (command.type) {
    case "order": {
      const { order } = command;
      if (order.role === "publish") publish = await PUBLISHERS[order.kind](order);
      else {
        const consumer = await CONSUMERS[order.kind](order);
        consume = () => consumer(createTally(order));
      }
      tell({ type: "ready" });
      return;
    }
    case "publish":
      await publish!(command.messages);
      tell({ type: "published" });
      return;
    case "consume":
      await consume!();
      return;
  }
}

/** Says when the slowest group has come to a mark. */
function createTally({ groups, marks }: ConsumeOrder): (group: number, count: number) => void {
  const counts = new Array<number>(groups).fill(0);
  const behind = marks.map(() => groups);
  return (group, count) => {
    const before = counts[group]!;
    counts[group] = before + count;
    for (const [i, mark] of marks.entries()) {
      if (before >= mark || before + count < mark) continue;
      behind[i]! -= 1;
      if (behind[i] === 0) tell({ type: "reached", mark });
    }
  };
}

process.on("message", (command: MqCommand) => {
  obey(command).catch((error: Error) => tell({ type: "failed", reason: `${error.message}\n${error.stack}` }));
});
process.on("disconnect", () => process.exit(0));
