// The to-do list itself: plain data and plain functions, nothing about HTTP.

export interface Todo {
  id: number;
  title: string;
  done: boolean;
}

export type Change = Partial<Pick<Todo, "title" | "done">>;

export const TITLE_LENGTH_MAX = 200;
export const TODOS_MAX = 1_000;

export class InvalidTodo extends Error {}

export class TodoList {
  #todos = new Map<number, Todo>();
  #lastId = 0;

  all(): Todo[] {
    return [...this.#todos.values()];
  }

  get(id: number): Todo | undefined {
    return this.#todos.get(id);
  }

  add(title: string): Todo {
    if (this.#todos.size >= TODOS_MAX) throw new InvalidTodo(`the list is full (${TODOS_MAX})`);
    const todo = { id: ++this.#lastId, title, done: false };
    this.#todos.set(todo.id, todo);
    return todo;
  }

  change(id: number, change: Change): Todo | undefined {
    const todo = this.#todos.get(id);
    return todo && Object.assign(todo, change);
  }

  remove(id: number): boolean {
    return this.#todos.delete(id);
  }
}

/** Read what a client sent; says in words what is wrong with it. */
export function parseChange(body: unknown): Change {
  if (typeof body !== "object" || body === null) throw new InvalidTodo("send a JSON object");
  const { title, done } = body as Record<string, unknown>;
  const change: Change = {};
  if (title !== undefined) {
    if (typeof title !== "string" || !title.trim()) throw new InvalidTodo("title must be a text");
    if (title.length > TITLE_LENGTH_MAX) {
      throw new InvalidTodo(`title has ${title.length} characters; ${TITLE_LENGTH_MAX} is the most`);
    }
    change.title = title.trim();
  }
  if (done !== undefined) {
    if (typeof done !== "boolean") throw new InvalidTodo("done must be true or false");
    change.done = done;
  }
  return change;
}
