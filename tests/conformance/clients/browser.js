// Serves browser.html and MQTT.js to a headless browser, and says what the page says: browser.js PORT CHROMIUM URL-PATH…
// Each URL-PATH is HOST/QUERY: the page is opened at HOST, which makes its origin.
const http = require('http')
const fs = require('fs')
const os = require('os')
const path = require('path')
const { spawn } = require('child_process')
const [port, chromium, ...pages] = process.argv.slice(2)
const script = path.join(path.dirname(require.resolve('mqtt/package.json')), 'dist/mqtt.min.js')
let done, failed = false

const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    let said = ''
    request.on('data', part => { said += part })
    request.on('end', () => {
      response.end()
      if (said === 'done') return done()
      failed ||= !said.startsWith('ok ')
      console.log(said)
    })
    return
  }
  const file = request.url === '/mqtt.js' ? script : path.join(__dirname, 'browser.html')
  response.setHeader('content-type', file === script ? 'text/javascript' : 'text/html')
  fs.createReadStream(file).pipe(response)
})

async function open (page) {
  const slash = page.indexOf('/')
  const [host, query] = [page.slice(0, slash), page.slice(slash + 1)]
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'browser-'))
  const finished = new Promise(resolve => { done = resolve })
  // The certificate is made for this run: what is tested is not whom the browser trusts.
  const browser = spawn(chromium, ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
    '--ignore-certificate-errors', '--no-first-run', '--disable-background-networking', '--user-data-dir=' + profile,
    `http://${host}:${port}/?${query}`], { stdio: 'ignore' })
  const late = setTimeout(() => { console.log('FAIL browser: the page says nothing, ' + page); failed = true; done() }, 120000)
  await finished
  clearTimeout(late)
  const ended = new Promise(resolve => browser.on('exit', resolve))
  browser.kill('SIGKILL')
  await ended
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 })
}

server.listen(Number(port), async () => {
  for (const page of pages) await open(page)
  process.exit(failed ? 1 : 0)
})
