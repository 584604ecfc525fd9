// A binding to the secrets store: `await env.SECRET.get()` → its text.
//
// An internal module of workerd's. The text is in the cell's configuration alone; a changed one comes
// with the next cell, which the machine starts at once.

class SecretsStoreSecret {
  #name;
  #text;

  constructor(name, text) {
    this.#name = name;
    this.#text = text;
  }

  async get() {
    if (this.#text === null) throw new Error(`Secret "${this.#name}" not found`);
    return this.#text;
  }
}

export default function (env) {
  return new SecretsStoreSecret(env.name, env.text);
}
