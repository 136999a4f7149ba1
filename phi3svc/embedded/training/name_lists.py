"""Lists of names that the entity grammar draws from, and syllables to make more of."""

from phi3svc.embedded.training.word_lists import items

FIRST_NAMES = """
    Anna Maria Lena Sophie Emma Olivia Mia Clara Julia Laura Sarah Hannah Nina Eva Ida Ella Alice
    Grace Ruth Martha Helen Irene Diana Rosa Carmen Lucia Elena Sofia Isabel Ines Paula Marta
    Chiara Giulia Francesca Bianca Amelie Camille Chloe Manon Louise Margot Astrid Ingrid Freya
    Sigrid Greta Linnea Katarina Natasha Olga Tatiana Irina Svetlana Yuki Sakura Hana Aiko Mei
    Ling Priya Anjali Lakshmi Fatima Aisha Leila Zainab Amara Ngozi Adaeze Wanjiru Thandiwe Nandi
    John Paul Peter James Thomas William Henry George Robert Michael David Daniel Samuel Benjamin
    Jacob Noah Lucas Oliver Jack Harry Charlie Oscar Felix Max Leon Jonas Lukas Finn Karl Otto
    Hans Fritz Klaus Jürgen Stefan Marco Luca Matteo Giovanni Paolo Carlos Diego Javier Miguel
    Pablo Rafael Antonio Pedro João Tiago Pierre Antoine Julien Étienne Hugo Lars Erik Nils Sven
    Magnus Bjørn Ivan Dmitri Sergei Boris Alexei Kenji Hiroshi Takeshi Wei Jun Raj Arjun Vikram
    Sanjay Omar Ahmed Hassan Yusuf Ibrahim Kwame Kofi Chinedu Themba Sipho Ravi Tom Ben Sam Kate
    Jane Mary Susan Linda Emily Lucy Amy Rachel Rebecca Nora Stella Violet Ivy Theo Edgar Arthur
    Walter Victor Simon Martin Philip Andrew Adam Alan Brian Kevin Eric Frank Gary Howard Ian
    Keith Neil Oscar Patrick Quentin Roger Scott Terry Vincent Wendy Yvonne Zoe Ada Albert Isaac
    Marie Angela Barack Elon Bill Tim Satya Steve Charles Elizabeth Joe Donald Leonardo Frida
    Ludwig Wolfgang Johann Amelia Yuri Katherine Rosalind Jean Emmanuel Mark Jeff Larry Bob Nick
    Greg Chris Alex Tina Lisa Niels Werner Enrico Galileo Nikola Alexander Catherine Margaret
    Charlotte Agatha Jules
""".split()
LAST_NAMES = """
    Smith Jones Brown Taylor Wilson Johnson Miller Davis Clark Lewis Walker Hall Young King Wright
    Baker Green Adams Nelson Carter Mitchell Turner Parker Collins Edwards Stewart Morris Rogers
    Reed Cook Morgan Bell Murphy Cooper Richardson Cox Howard Ward Peterson Gray Watson Brooks
    Kelly Sanders Price Bennett Wood Barnes Ross Henderson Coleman Jenkins Perry Powell Long
    Patterson Hughes Flores Butler Simmons Foster Müller Schmidt Schneider Fischer Weber Meyer
    Wagner Becker Hoffmann Schulz Rossi Russo Ferrari Esposito Bianchi Romano Garcia Martinez
    Lopez Gonzalez Perez Sanchez Ramirez Torres Silva Santos Oliveira Pereira Costa Dubois Moreau
    Laurent Lefebvre Rousseau Andersson Johansson Karlsson Nilsson Hansen Olsen Larsen Ivanov
    Petrov Sokolov Volkov Tanaka Suzuki Takahashi Watanabe Yamamoto Nakamura Chen Wang Zhang Liu
    Huang Zhao Kim Park Choi Nguyen Tran Singh Patel Sharma Gupta Kumar Khan Ali Rahman Okafor
    Mensah Dlamini Nkosi Abebe Haddad Cohen Levy Novak Horvat Kowalski
""".split()
CITIES = items(
    """
    London | Paris | Berlin | Madrid | Rome | Vienna | Prague | Warsaw | Budapest | Lisbon |
    Dublin | Oslo | Stockholm | Copenhagen | Helsinki | Athens | Istanbul | Moscow | Kyiv | Zurich
    | Geneva | Brussels | Amsterdam | Hamburg | Munich | Cologne | Frankfurt | Milan | Naples |
    Venice | Florence | Barcelona | Valencia | Seville | Porto | Lyon | Marseille | Toulouse |
    Manchester | Liverpool | Edinburgh | Glasgow | Leeds | Bristol | Oxford | Cambridge | Tokyo |
    Osaka | Kyoto | Beijing | Shanghai | Seoul | Bangkok | Singapore | Jakarta | Manila | Mumbai |
    Delhi | Chennai | Kolkata | Karachi | Dubai | Cairo | Lagos | Nairobi | Accra | Johannesburg |
    Casablanca | Tunis | Sydney | Melbourne | Brisbane | Perth | Auckland | Wellington | Toronto |
    Montreal | Vancouver | Ottawa | Boston | Chicago | Seattle | Denver | Dallas | Houston |
    Atlanta | Miami | Phoenix | Portland | Detroit | Philadelphia | Washington | Lima | Bogotá |
    Quito | Santiago | Caracas | Havana | New York | Los Angeles | San Francisco | Las Vegas |
    Mexico City | Buenos Aires | Rio de Janeiro | São Paulo | Cape Town | Hong Kong | Kuala Lumpur
    | Tel Aviv | New Delhi
    """
)
COUNTRIES = items(
    """
    France | Germany | Spain | Italy | Portugal | Austria | Poland | Hungary | Norway | Sweden |
    Denmark | Finland | Greece | Turkey | Ireland | Switzerland | Belgium | Scotland | England |
    Wales | Japan | China | India | Thailand | Vietnam | Indonesia | Australia | Canada | Mexico |
    Brazil | Argentina | Chile | Peru | Colombia | Cuba | Egypt | Morocco | Kenya | Ghana |
    Nigeria | Ethiopia | Tanzania | Iceland | Croatia | Romania | Bulgaria | Ukraine | Europe |
    Asia | Africa | California | Texas | Florida | Bavaria | Tuscany | Provence | South Africa |
    New Zealand | South Korea | Saudi Arabia | the United States | the Netherlands
    """
)
WATERS = """
    Lake River Mount Cape Port
""".split()
KNOWN_COMPANIES = items(
    """
    Google | Microsoft | Amazon | Apple | Netflix | Siemens | Bosch | Toyota | Honda | Sony |
    Samsung | Nokia | Ericsson | IBM | Intel | Volvo | Renault | Airbus | Boeing | Nestlé |
    Unilever | Pfizer | Bayer | BASF | IKEA | Lego | Spotify | Adidas | Nike | Puma | NASA |
    UNESCO | UNICEF | Greenpeace | Interpol | Reuters | BBC | CNN | the United Nations | the
    European Union | the Red Cross | the World Bank | General Electric | Deutsche Bank
    """
)
PERSON_STARTS = """
    Har Ben Wil Rob Kar Lind Hol Ander Stef Gal Mar Rich Ed Hen Sor Fal Dun Pem Whit Had Cald Brun
    Vel Tor Mor Kol Zim Hal Ost Lam Fer Gren Bar Cal Dam Ral Sil Wex
""".split()
PERSON_ENDS = """
    son sen man mann er ez ini elli ard ley kov ski wicz shaw ton worth field ides oglu stein
    quist
""".split()
PLACE_STARTS = """
    Ash Oak Elm Birch Stone Clear Spring River North South West East Fair Green High Red White
    Black Silver Gold Winter Summer King Queen Bridge Mill Wood Rock Sand Glen Marl Thorn Brook
    Kings Long Lake Hazel
""".split()
PLACE_ENDS = """
    ford ham bury ville ton burgh mouth field dale wick port haven stead bridge brook borough mere
""".split()
COMPANY_STARTS = """
    Nova Quant Omni Vero Lumi Aero Cyber Data Net Bio Geo Solar Hydro Tele Micro Inter Uni Trans
    Syn Digi Info Eco Electro Opti Robo Astro
""".split()
COMPANY_ENDS = """
    tech soft corp tron dyne sys plex gen wave com nix lab link works media ware ton
""".split()
COMPANY_FIRST = """
    Global United National Northern Southern Eastern Western Pacific Atlantic Central First Royal
    General Modern Bright Rapid Prime Apex Summit Horizon Pioneer Vertex Alpine Coastal Crown
    Falcon Titan Evergreen Northwind Bluebird Redwood Ironbridge Sunrise Starlight Beacon Harbour
    Cedar Granite Copper
""".split()
COMPANY_KIND = """
    Bank Airlines Motors Systems Industries Foods Energy Media Records Books Software Technologies
    Electronics Pharma Logistics Insurance Railways Studios Labs Capital Holdings Partners Group
    Institute Foundation Consulting Robotics Telecom Steel Textiles Chemicals Brewery Press
""".split()
SUFFIXES = items(
    """
    Inc. | Ltd. | Corp. | GmbH | AG | plc | & Co. | LLC
    """
)
