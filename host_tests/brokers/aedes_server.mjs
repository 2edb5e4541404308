// Aedes over mutual TLS, with its sessions in a LevelDB:
//   node aedes_server.mjs '{"modules": …, "folder": …, "port": …, "ca": …, "certificate": …, "key": …}'

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import tls from 'node:tls'
import { pathToFileURL } from 'node:url'

const options = JSON.parse(process.argv[2])
const require = createRequire(options.modules + '/')
const load = (name) => import(pathToFileURL(require.resolve(name)))

const { Aedes } = await load('aedes')
const { Level } = await load('level')
const module = await load('aedes-persistence-level')
const persistence = (module.default ?? module.aedesPersistenceLevel)(new Level(options.folder))

// Its default of 42 queued messages a session would be met by a device that is away for a moment.
const broker = await Aedes.createBroker({ persistence, queueLimit: 100000 })
broker.authorizeSubscribe = (client, subscription, callback) =>
  callback(null, subscription.topic === 'forbidden' ? null : subscription)
const server = tls.createServer(
  {
    ca: readFileSync(options.ca),
    cert: readFileSync(options.certificate),
    key: readFileSync(options.key),
    requestCert: true,
    rejectUnauthorized: true
  },
  broker.handle
)
for (const event of ['clientError', 'connectionError']) {
  broker.on(event, (client, error) => console.log(event, client?.id, error.message))
}
process.on('SIGTERM', () => {
  server.close()
  broker.close(() => process.exit(0))
})
server.listen(options.port, '127.0.0.1')
