/** `skein layers`: who may call whom, and who publishes and consumes what. Needs no running Skein: it prints the code's own table. */

import { defineCommand } from "citty";
import { LAYERS, renderLayers } from "../../lib/rpc/index.ts";

export const layers = defineCommand({
  meta: { name: "layers", description: "Print the graph of who talks to whom" },
  args: { json: { type: "boolean", default: false, description: "Print the table as JSON" } },
  run({ args }) {
    console.log(args.json ? JSON.stringify(LAYERS, null, 2) : renderLayers());
  },
});
