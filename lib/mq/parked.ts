/**
 * Keys of ordered groups that stand parked, for operators: which they are, and how they go on. A key is parked when its first
 * message used up its attempts, in a group with `onPoison: "park"`.
 */

import { AppError } from "../errors.ts";
import { defineScript, toAppError } from "../redis/index.ts";
import sideLua from "../redis/lua/mq-side.lua" with { type: "text" };
import unparkLua from "../redis/lua/mq-unpark.lua" with { type: "text" };
import type { QueueContext } from "./consumer.ts";
import type { AttemptNote } from "./message.ts";
import { parseAside, sideKeys } from "./side.ts";
